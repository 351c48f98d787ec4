"""Every token of an inspection as a Parquet file, one row per token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import final

import pyarrow as pa
import pyarrow.parquet as pq

from prefopt.pages.token_view import PairTokens

__all__ = ["TokenFile", "token_file"]

_ROW_GROUP = 100_000

_LAYERS = ("w", "v", "log_ratio", "divergence")
_FIELDS = {
    "pair": pa.int64(),
    "where": pa.string(),
    "side": pa.string(),
    "position": pa.int32(),
    "token_id": pa.int32(),
    "token": pa.string(),
    **dict.fromkeys(_LAYERS, pa.float32()),
}


@final
class TokenFile:
    """A Parquet file that grows pair by pair."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._columns: dict[str, list[object]] = {name: [] for name in _FIELDS}

    def add(self, pair: PairTokens) -> None:
        """Write the tokens of a pair, chosen before rejected. A layer that the objective lacks is null."""
        for side, response in pair.responses.items():
            number = len(response.tokens)
            columns: dict[str, Iterable[object]] = {
                "pair": [pair.row] * number,
                "where": [pair.where] * number,
                "side": [side] * number,
                "position": range(number),
                "token_id": response.ids or (),
                # A token may be half a character, which UTF-8 cannot encode.
                "token": [token.encode("utf-8", "replace").decode() for token in response.tokens],
                **{name: response.values.get(name) or [None] * number for name in _LAYERS},
            }
            for name, column in columns.items():
                self._columns[name] += column
        if len(self._columns["pair"]) >= _ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are held in memory, as one row group."""
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
