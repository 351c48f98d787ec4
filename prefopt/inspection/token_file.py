"""Every token of an inspection as a Parquet file, one row per token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefopt.pages.token_view import PairTokens
from prefopt.whole_files import naming_full_disk

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


@contextmanager
def token_file(path: Path, about: Mapping[str, object]) -> Iterator[Callable[[PairTokens], None]]:
    """A function that adds a pair to a Parquet file, which is complete when the block ends.

    Chosen tokens come before rejected ones, and a layer that the objective lacks is null. `about` is in the file's
    metadata under "prefopt", as JSON. Raises OSError where the disk is full, and leaves no file then.
    """
    schema = pa.schema(_FIELDS, metadata={"prefopt": json.dumps(about)})
    columns: dict[str, list[object]] = {name: [] for name in _FIELDS}

    def write() -> None:
        if columns["pair"]:
            writer.write_table(pa.table(columns, schema=schema))
            columns.update({name: [] for name in _FIELDS})

    def add(pair: PairTokens) -> None:
        for side, response in pair.responses.items():
            number = len(response.tokens)
            columns["pair"] += [pair.row] * number
            columns["where"] += [pair.where] * number
            columns["side"] += [side] * number
            columns["position"] += range(number)
            columns["token_id"] += response.ids or ()
            # A token may be half a character, which UTF-8 cannot encode.
            columns["token"] += [token.encode("utf-8", "replace").decode() for token in response.tokens]
            for name in _LAYERS:
                columns[name] += response.values.get(name) or [None] * number
        if len(columns["pair"]) >= _ROW_GROUP:
            write()

    try:
        with naming_full_disk(path), pq.ParquetWriter(path, schema, compression="zstd") as writer:
            yield add
            write()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
