"""The records of a comparison's runs in its folder, and the queue from which processes claim runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from filelock import FileLock, Timeout

from prefopt.comparison.run import Run

RUNS = "runs.jsonl"
"""The name of the log in the folder of a comparison."""

LOCKS = "locks"
"""The name of the folder, in that of a comparison, of the locks by which processes claim runs."""

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


@final
class RunQueue:
    """The runs that are neither finished nor failed since the queue was made, each for one process at a time.

    A claim is a lock of the operating system on FOLDER/locks/KEY.lock, held until the record is written. It ends with
    the process that holds it, so that the run of a dead process can be claimed again.

    runs    computes all runs of the comparison from the records so far: a finished run may bring others (its control)
    """

    def __init__(self, log: RunLog, folder: Path, runs: Callable[[], Sequence[Run]]) -> None:
        self.log = log
        self._folder = folder
        self._compute_runs = runs
        self._start = log.end
        self._claims: dict[str, FileLock] = {}
        self._runs: tuple[int, Sequence[Run]] = (-1, ())

    def runs(self) -> Sequence[Run]:
        """Two names may stand for the same run, which is there once, under the first of them."""
        if self._runs[0] != self.log.end:
            self._runs = (self.log.end, list({run.key: run for run in reversed(self._compute_runs())}.values())[::-1])
        return self._runs[1]

    def pending(self) -> list[Run]:
        """The runs that are not over, claimed ones included."""
        self.log.refresh()
        return [run for run in self.runs() if not self._over(run)]

    def count(self) -> tuple[int, int]:
        """How many runs are over, and of how many."""
        pending, total = len(self.pending()), len(self.runs())
        return total - pending, total

    def failed(self) -> list[Run]:
        """The runs whose last record is a failure."""
        self.log.refresh()
        return [run for run in self.runs() if run.key in self.log.records and not self.log.finished(run)]

    def claim(self, ready: Callable[[Run], bool] = lambda run: True) -> Run | None:
        """Claim a run that nobody holds: the first that is ready, else the first; None where all are held."""
        free = [run for run in self.pending() if run.key not in self._claims]
        return next((run for run in sorted(free, key=lambda run: not ready(run)) if self._lock(run)), None)

    def finish(self, run: Run, record: Record) -> None:
        """Append the record of a claimed run and release the claim."""
        self.log.add(record)
        self._claims.pop(run.key).release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Release all claims."""
        while self._claims:
            self._claims.popitem()[1].release()

    def _lock(self, run: Run) -> bool:
        self._folder.joinpath(LOCKS).mkdir(exist_ok=True)
        lock = FileLock(self._folder / LOCKS / f"{run.key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self.log.refresh()
        if self._over(run):  # its record was written between our look at the log and the lock
            lock.release()
            return False
        self._claims[run.key] = lock
        return True

    def _over(self, run: Run) -> bool:
        return self.log.finished(run) or self.log.begins(run) >= self._start
