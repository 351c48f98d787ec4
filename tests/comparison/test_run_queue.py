"""The queue: which runs are to be carried out, in which order, and how many."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefopt.comparison.run_log import RunLog
from prefopt.comparison.run_queue import RunQueue
from tests.comparison.test_run_log import RUNS, record


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path / "runs.jsonl")


def names(queue: RunQueue) -> list[str]:
    return [f"{run.name} {run.seed}" for run in queue.pending()]


def test_two_names_of_a_run_are_one(log: RunLog) -> None:
    queue = RunQueue(log, lambda: RUNS)
    assert names(queue) == ["reference 0", "dpo 0", "simpo 0", "reference 1", "dpo 1", "simpo 1"]
    queue.finish(RUNS[0], record(RUNS[0]))
    assert queue.count() == (1, 6)
    assert names(queue)[0] == "dpo 0"


def test_a_failed_run_is_pending_for_later_queues(log: RunLog) -> None:
    queue = RunQueue(log, lambda: RUNS)
    queue.finish(RUNS[0], record(RUNS[0], "no"))
    assert queue.failed() == [RUNS[0]]
    assert "reference 0" not in names(queue)
    later = RunQueue(log, lambda: RUNS)
    assert names(later)[0] == "reference 0"
    later.finish(RUNS[0], record(RUNS[0]))
    assert later.failed() == []
    assert names(RunQueue(log, lambda: RUNS))[0] == "dpo 0"


def test_a_run_that_is_finished_brings_further_runs(log: RunLog) -> None:
    queue = RunQueue(log, lambda: RUNS[:2] if log.finished(RUNS[0]) else RUNS[:1], brings=lambda run: 1)
    assert queue.count() == (0, 2)
    queue.finish(RUNS[0], record(RUNS[0]))
    assert queue.pending() == [RUNS[1]]
    assert queue.count() == (1, 3)
