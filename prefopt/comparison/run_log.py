"""The log of runs: a line of JSON for each run, finished or failed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from filelock import FileLock

from prefopt.comparison.run import Run

RUNS = "runs.jsonl"
"""The name of the log in the folder of a comparison."""

Record = Mapping[str, Any]


@final
class RunLog:
    """runs.jsonl, to which any number of processes may append; a record is synced to disk before `add` returns.

    The next record replaces a line that was cut short because its process was killed. Of several records of a run the
    last counts. Raises ValueError for a line that is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self.end = 0
        """Where the last whole line that was read ends, in bytes."""
        self._lines = 0
        self._begins: dict[str, int] = {}
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have appended."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.end)
            for line in file:
                if line.endswith(b"\n"):
                    self._read(line)

    def _read(self, line: bytes) -> None:
        self._lines += 1
        try:
            record = json.loads(line)
            key = record["key"]
        except (ValueError, KeyError, TypeError) as error:
            where = f"{self.path}:{self._lines}"
            raise ValueError(f"{where}: not the record of a run; delete the line or the file") from error
        self.records[key] = record
        self._begins[key] = self.end
        self.end += len(line)

    def finished(self, run: Run) -> bool:
        record = self.records.get(run.key)
        return record is not None and record["error"] is None

    def begins(self, run: Run) -> int:
        """Where the run's last record begins in the file, in bytes; -1 where it has none."""
        return self._begins.get(run.key, -1)

    def add(self, record: Record) -> None:
        line = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
        with self._lock:
            self.refresh()
            with self.path.open("r+b" if self.path.exists() else "xb") as file:
                file.seek(self.end)
                file.truncate()
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        self.refresh()
