"""The numbers of every token as a Parquet file, a row a token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import final

import pyarrow as pa
import pyarrow.parquet as pq

from prefopt.inspection.weigh import WeighedPair

__all__ = ["TokenFile", "token_file"]

_ROWS = 100_000
"""Tokens that are held before they are written, as one row group."""

_NUMBERS = ("w", "v", "log_ratio", "divergence")
_FIELDS = {
    "pair": pa.int64(),
    "where": pa.string(),
    "side": pa.string(),
    "position": pa.int32(),
    "token_id": pa.int32(),
    "token": pa.string(),
    **dict.fromkeys(_NUMBERS, pa.float32()),
}


@final
class TokenFile:
    """A Parquet file that grows pair by pair."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._columns: dict[str, list[object]] = {name: [] for name in _FIELDS}

    def add(self, pair: WeighedPair) -> None:
        """Write the tokens of a pair, chosen before rejected. A layer that the objective lacks is null."""
        columns = self._columns
        for side, response in pair.sides:
            number = len(response.ids)
            columns["pair"] += [pair.row] * number
            columns["where"] += [pair.where] * number
            columns["side"] += [side] * number
            columns["position"] += range(number)
            columns["token_id"] += response.ids
            # A token may be half a character, for which UTF-8 has no place.
            columns["token"] += [piece.encode("utf-8", "replace").decode() for piece in response.pieces]
            for name in _NUMBERS:
                columns[name] += response.numbers.get(name, [None] * number)
        if len(columns["pair"]) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._columns["pair"]:
            self._writer.write_table(pa.table(self._columns, schema=self._writer.schema))
            self._columns = {name: [] for name in _FIELDS}


@contextmanager
def token_file(path: Path, about: Mapping[str, object]) -> Iterator[TokenFile]:
    """A file for the block to fill; `about` is in its metadata under "prefopt", as JSON."""
    schema = pa.schema(_FIELDS, metadata={"prefopt": json.dumps(about)})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        file = TokenFile(writer)
        yield file
        file.flush()
