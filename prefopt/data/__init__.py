"""Preference data: rows of files, folders and the hub -> validated pairs -> token ids -> batches."""

from prefopt.data.collate import PreferenceCollator
from prefopt.data.dataset import OnBadRows, prepare
from prefopt.data.encode import EncodingConfig, OnTooLong, encode_pair, encode_prompt
from prefopt.data.messages import Message, content_text
from prefopt.data.pairs import ChatPair, Pair, ResponseText, TextPair, response_text, to_pair
from prefopt.data.report import DataReport, LengthReport
from prefopt.data.row_encoder import RowEncoder
from prefopt.data.rows import BadRow, DataError, SourceRow, read_rows, rows_of
from prefopt.data.sources import DataSource, Mixture, StoppingStrategy, hold_out, mix
from prefopt.data.stream import PairStream, is_stream, shuffled
from prefopt.data.truncation import EncodedPair, TooLong

__all__ = [
    "BadRow",
    "ChatPair",
    "DataError",
    "DataReport",
    "DataSource",
    "EncodedPair",
    "EncodingConfig",
    "LengthReport",
    "Message",
    "Mixture",
    "OnBadRows",
    "OnTooLong",
    "Pair",
    "PairStream",
    "PreferenceCollator",
    "ResponseText",
    "RowEncoder",
    "SourceRow",
    "StoppingStrategy",
    "TextPair",
    "TooLong",
    "content_text",
    "encode_pair",
    "encode_prompt",
    "hold_out",
    "is_stream",
    "mix",
    "prepare",
    "read_rows",
    "response_text",
    "rows_of",
    "shuffled",
    "to_pair",
]
