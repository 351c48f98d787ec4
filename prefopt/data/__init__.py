"""Preference data: rows of files, folders and the hub -> validated pairs -> token ids -> batches."""

from prefopt.data.collate import PreferenceCollator
from prefopt.data.dataset import DataReport, LengthReport, OnBadRows, prepare
from prefopt.data.encode import EncodedPair, EncodingConfig, encode_pair, encode_prompt
from prefopt.data.pairs import ChatPair, Message, Pair, ResponseText, TextPair, response_text, to_pair
from prefopt.data.rows import BadRow, DataError, SourceRow, read_rows, rows_of

__all__ = [
    "BadRow",
    "ChatPair",
    "DataError",
    "DataReport",
    "EncodedPair",
    "EncodingConfig",
    "LengthReport",
    "Message",
    "OnBadRows",
    "Pair",
    "PreferenceCollator",
    "ResponseText",
    "SourceRow",
    "TextPair",
    "encode_pair",
    "encode_prompt",
    "prepare",
    "read_rows",
    "response_text",
    "rows_of",
    "to_pair",
]
