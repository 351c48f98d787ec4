"""The records of a comparison's runs in its folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from prefopt.comparison.run import Run, configuration_key

RUNS = "runs.jsonl"
"""The name of the log in the folder of a comparison."""

Record = Mapping[str, Any]

_DIGEST = "sha256"
"""The last field of a line."""

_DIGESTED = "digest"
"""The first field, which says that there is the last one: whichever of the two is damaged, the other tells."""


@final
class RunLog:
    """runs.jsonl, to which one process appends at a time; a record is synced to disk before `add` returns.

    A line ends with the digest of what is before it, and begins by saying so; those of earlier releases do neither. One
    that is damaged is left out with a warning that names it, so that its run is carried out again, and the next record
    replaces a line that was cut short. Of several records of a run the last counts, but no failure and no figure that
    is not finite replaces a record that is finished and finite. Raises OSError where a record cannot be written; the
    others stay.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self.end = 0
        """Where the last whole line that was read ends, in bytes."""
        self._lines = 0
        self.refresh()

    def refresh(self) -> None:
        """Read what has been appended."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.end)
            for line in file:
                if line.endswith(b"\n"):
                    self._read(line)

    def _read(self, line: bytes) -> None:
        self._lines += 1
        self.end += len(line)
        try:
            record = _parse(line)
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"{self.path}:{self._lines}: not a whole record ({error}); it is left out and its run carried out "
                "again. Delete the line to be rid of this warning",
                stacklevel=4,
            )
            return
        key = record["key"]
        if not (key in self.records and _sound(self.records[key]) and not _sound(record)):
            self.records[key] = record

    def finished(self, run: Run) -> bool:
        record = self.records.get(run.key)
        return record is not None and record["error"] is None

    def add(self, record: Record) -> None:
        text = json.dumps({_DIGESTED: _DIGEST, **record}, ensure_ascii=False, default=str)
        line = f'{text[:-1]}, "{_DIGEST}": "{_digest(text)}"}}\n'.encode()
        with self.path.open("r+b" if self.path.exists() else "xb", buffering=0) as file:
            try:
                file.seek(self.end)
                file.truncate()
                if (written := file.write(line)) < len(line):
                    file.write(line[written:])  # raises what kept the rest from being written
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(self.end)
                raise OSError(
                    error.errno,
                    f"a record of {len(line):,} bytes cannot be written ({error.strerror}); make room, and the same "
                    "command goes on: the runs that are finished stay",
                    str(self.path),
                ) from error
        self.refresh()


def _parse(line: bytes) -> Record:
    """The record of a line. Raises ValueError, KeyError or TypeError where it is none, or not what was written."""
    text = line.decode().rstrip("\n")
    record: dict[str, Any] = json.loads(text)
    if not isinstance(record, dict) or "key" not in record or "error" not in record:
        raise ValueError("it is not the record of a run")
    digested, digest = record.pop(_DIGESTED, None), record.pop(_DIGEST, None)
    if (digested or digest) and digest != _digest(text.rpartition(f', "{_DIGEST}"')[0] + "}"):
        raise ValueError("it is not what was written, as its digest shows")
    if "configuration" in record and record["key"] != configuration_key(record["configuration"]):
        raise ValueError("its key is not that of its configuration")
    return record


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sound(record: Record) -> bool:
    """Whether the run is finished and all its figures are finite."""
    figures = (figure for values in record.get("values", {}).values() for figure in values.values())
    return record["error"] is None and all(map(math.isfinite, figures))
