"""A data set that grows chunk by chunk: in memory while it is small, then in a file that is mapped into memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import datasets
from datasets.arrow_writer import ArrowWriter
from datasets.fingerprint import get_temporary_cache_files_directory

IN_MEMORY = 64 * 2**20
"""Bytes of Arrow's that are held in memory."""


@final
class GrowingDataset:
    """Rows of these features. Those beyond IN_MEMORY bytes, with all before them, are in a file of the folder in which
    `datasets` keeps temporary files (TMPDIR names where that is), which it removes when the process ends."""

    def __init__(self, features: datasets.Features) -> None:
        self._features = features
        self._chunks: list[datasets.Dataset] = []
        self._bytes = 0
        self._file: Path | None = None
        self._writer: ArrowWriter | None = None

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append them. Raises OSError, with the path, where a file cannot be written."""
        chunk = datasets.Dataset.from_list(list(rows), features=self._features)
        self._chunks.append(chunk)
        self._bytes += chunk.data.nbytes
        if self._bytes > IN_MEMORY or self._writer is not None:
            self._write()

    def dataset(self) -> datasets.Dataset:
        """All rows, of which there is at least one."""
        if self._writer is None:
            return datasets.concatenate_datasets(self._chunks)
        try:
            self._writer.finalize()
        except OSError as error:
            raise self._unwritten(error) from error
        return datasets.Dataset.from_file(str(self._file))

    def _write(self) -> None:
        try:
            if self._writer is None:
                self._file = Path(get_temporary_cache_files_directory(), f"pairs-{uuid.uuid4().hex}.arrow")
                self._writer = ArrowWriter(features=self._features, path=str(self._file))
            for chunk in self._chunks:
                self._writer.write_table(chunk.data.table)
        except OSError as error:
            raise self._unwritten(error) from error
        self._chunks.clear()

    def _unwritten(self, error: OSError) -> OSError:
        problem = "the token ids of the data cannot be written"
        remedy = "make room there, or name another folder as the environment's TMPDIR"
        code = error.errno or 0
        return OSError(code, f"{problem} ({os.strerror(code) if code else error}); {remedy}", str(self._file))
