"""What is left to do of a suite, in a folder that other processes and other machines may be at as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, final

from filelock import FileLock, Timeout

from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record, RunLog

__all__ = ["Agenda"]


@final
class Agenda:
    """The runs that are neither finished nor failed since the agenda was opened, each for one process at a time.

    Who takes a run holds a lock of the operating system on FOLDER/locks/KEY.lock until its record is written. The lock
    ends with the process that holds it, so a run that nobody is at any more can be taken again.

    runs    all runs of the comparison, given the records that there are: what they find can bring further ones
    """

    def __init__(self, log: RunLog, folder: Path, runs: Callable[[], Sequence[Run]]) -> None:
        self.log = log
        self._folder = folder
        self._runs = runs
        self._begun = log.end
        self._held: dict[str, FileLock] = {}
        self._known: tuple[int, Sequence[Run]] = (-1, ())

    def runs(self) -> Sequence[Run]:
        """Two names may stand for the same run, which is there once, under the first of them."""
        if self._known[0] != self.log.end:
            self._known = (self.log.end, list({run.key: run for run in reversed(self._runs())}.values())[::-1])
        return self._known[1]

    def left(self) -> list[Run]:
        """What is still to be done, by us or by others."""
        self.log.refresh()
        return [run for run in self.runs() if not self._over(run)]

    def count(self) -> tuple[int, int]:
        """How many runs are over, and of how many."""
        left, total = len(self.left()), len(self.runs())
        return total - left, total

    def failed(self) -> list[Run]:
        """What was tried, and is not finished."""
        self.log.refresh()
        return [run for run in self.runs() if run.key in self.log.records and not self.log.finished(run)]

    def take(self, ready: Callable[[Run], bool] = lambda run: True) -> Run | None:
        """A run that nobody is at: the first that is ready, else the first. None where there is none at present."""
        free = [run for run in self.left() if run.key not in self._held]
        for run in sorted(free, key=lambda run: not ready(run)):
            if self._claim(run):
                return run
        return None

    def close(self, run: Run, record: Record) -> None:
        """Write down what became of a run that was taken."""
        self.log.add(record)
        self._held.pop(run.key).release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """What was taken and not closed is for others."""
        while self._held:
            self._held.popitem()[1].release()

    def _claim(self, run: Run) -> bool:
        self._folder.joinpath("locks").mkdir(exist_ok=True)
        lock = FileLock(self._folder / "locks" / f"{run.key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self.log.refresh()
        if self._over(run):  # somebody wrote it down between our look at the log and the lock
            lock.release()
            return False
        self._held[run.key] = lock
        return True

    def _over(self, run: Run) -> bool:
        return self.log.finished(run) or self.log.begins(run) >= self._begun
