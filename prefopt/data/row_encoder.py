"""A row by itself: validated and encoded, with what of it nobody reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from transformers import PreTrainedTokenizerBase

from prefopt.columns import Column
from prefopt.data.column_values import read_column_values
from prefopt.data.encode import EncodingConfig, encode_pair
from prefopt.data.fields import TEMPLATE_FIELDS, holds
from prefopt.data.messages import texts
from prefopt.data.pairs import to_pair
from prefopt.data.report import column_label
from prefopt.data.rows import BadRow, SourceRow
from prefopt.data.truncation import EncodedPair


class Outcome(NamedTuple):
    """What became of a row: None where its two responses are the same tokens. `unread` is in words, of a row that is
    used."""

    pair: EncodedPair | BadRow | None
    unread: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class RowEncoder:
    """(row) -> Outcome, whatever other rows there are; `columns` and `extra` are as for `prepare`."""

    tokenizer: PreTrainedTokenizerBase
    config: EncodingConfig
    columns: Mapping[str, str]
    extra: Sequence[Column]

    def __call__(self, row: SourceRow | BadRow) -> Outcome:
        pair = row if isinstance(row, BadRow) else to_pair(row, self.columns)
        if isinstance(pair, BadRow):
            return Outcome(pair)
        values = read_column_values(pair, self.columns, self.extra)
        if isinstance(values, BadRow):
            return Outcome(values)
        encoded = encode_pair(pair, self.tokenizer, self.config, values)
        if not isinstance(encoded, EncodedPair) or not isinstance(row, SourceRow):
            return Outcome(encoded)
        used = {self.columns.get(name, name) for column in self.extra for name in _fields(column)}
        return Outcome(encoded, tuple(_unread(row.fields, pair.usage.fields | used, self.columns)))


def _fields(column: Column) -> tuple[str, ...]:
    """The fields of a row that a column reads, with the one that is its limit."""
    limit = column.at_least
    return (*column.fields, *((limit,) if isinstance(limit, str) else ()))


def _unread(fields: Mapping[str, object], read: Collection[str], columns: Mapping[str, str]) -> Iterator[str]:
    """In words, the columns of a row that nobody reads, and what `columns` renames for nobody."""
    for name, value in fields.items():
        if name not in read and holds(value):
            yield column_label(name, has_text=name in TEMPLATE_FIELDS or bool(texts(value)))
    for role, name in columns.items():
        if name not in read and name not in fields:
            yield f"'{role}: {name}' of columns, which no such row reads"
