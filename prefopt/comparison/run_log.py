"""The records of a comparison's runs in its folder, and the queue from which processes claim runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from filelock import FileLock, Timeout

from prefopt.comparison.run import Run, configuration_key

RUNS = "runs.jsonl"
"""The name of the log in the folder of a comparison."""

LOCKS = "locks"
"""The name of the folder, in that of a comparison, of the locks by which processes claim runs."""

Record = Mapping[str, Any]

_DIGEST = "sha256"
"""The last field of a line."""

_DIGESTED = "digest"
"""The first field, which says that there is the last one: whichever of the two is damaged, the other tells."""


@final
class RunLog:
    """runs.jsonl, to which any number of processes may append; a record is synced to disk before `add` returns.

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
        begins, self.end = self.end, self.end + len(line)
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
        self._begins[key] = begins

    def finished(self, run: Run) -> bool:
        record = self.records.get(run.key)
        return record is not None and record["error"] is None

    def begins(self, run: Run) -> int:
        """Where the run's last record begins in the file, in bytes; -1 where it has none."""
        return self._begins.get(run.key, -1)

    def add(self, record: Record) -> None:
        text = json.dumps({_DIGESTED: _DIGEST, **record}, ensure_ascii=False, default=str)
        line = f'{text[:-1]}, "{_DIGEST}": "{_digest(text)}"}}\n'.encode()
        with self._lock:
            self.refresh()
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
                        f"a record of {len(line):,} bytes cannot be written ({error.strerror}); make room, and the "
                        "same command goes on: the runs that are finished stay",
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


@final
class RunQueue:
    """The runs that are neither finished nor failed since the queue was made, each for one process at a time.

    A claim is a lock of the operating system on FOLDER/locks/KEY.lock, held until the record is written. It ends with
    the process that holds it, so that the run of a dead process can be claimed again.

    runs    computes all runs of the comparison from the records so far: a finished run may bring others (its control)
    brings  how many others a pending run will bring, so that they are counted from the start
    """

    def __init__(
        self,
        log: RunLog,
        folder: Path,
        runs: Callable[[], Sequence[Run]],
        *,
        brings: Callable[[Run], int] = lambda run: 0,
    ) -> None:
        self._brings = brings
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
        pending, total = self.pending(), len(self.runs())
        return total - len(pending), total + sum(map(self._brings, pending))

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
