"""The runs of a comparison that are still to be carried out, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record, RunLog


@final
class RunQueue:
    """The runs that are neither finished nor tried since the queue was made.

    runs    computes all runs of the comparison from the records so far: a finished run may bring others (its control)
    brings  how many others a pending run will bring, so that they are counted from the start
    """

    def __init__(
        self, log: RunLog, runs: Callable[[], Sequence[Run]], *, brings: Callable[[Run], int] = lambda run: 0
    ) -> None:
        self._log = log
        self._compute_runs = runs
        self._brings = brings
        self._tried: set[str] = set()
        self._runs: tuple[int, Sequence[Run]] = (-1, ())

    def runs(self) -> Sequence[Run]:
        """Two names may stand for the same run, which is there once, under the first of them."""
        if self._runs[0] != self._log.end:
            self._runs = (self._log.end, list({run.key: run for run in reversed(self._compute_runs())}.values())[::-1])
        return self._runs[1]

    def pending(self) -> list[Run]:
        """The runs that are not over."""
        return [run for run in self.runs() if run.key not in self._tried and not self._log.finished(run)]

    def count(self) -> tuple[int, int]:
        """How many runs are over, and of how many."""
        pending, total = self.pending(), len(self.runs())
        return total - len(pending), total + sum(map(self._brings, pending))

    def failed(self) -> list[Run]:
        """The runs whose last record is a failure."""
        return [run for run in self.runs() if run.key in self._log.records and not self._log.finished(run)]

    def finish(self, run: Run, record: Record) -> None:
        """Append the record of a run."""
        self._log.add(record)
        self._tried.add(run.key)
