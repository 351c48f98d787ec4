"""The agenda: each run is for one, however many are at the folder; and the log that they all append to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prefopt.comparison.run import Run
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.run_queue import Agenda
from prefopt.comparison.suite import Suite
from tests.comparison.test_suite import SUITE

RUNS = Suite.model_validate({**SUITE, "seeds": [0, 1]}).runs()  # of one seed: reference, dpo, the same, simpo
Open = Callable[[], Agenda]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    return lambda: Agenda(RunLog(tmp_path / "runs.jsonl"), tmp_path, lambda: RUNS)


def record(run: Run, error: str | None = None) -> dict[str, Any]:
    return {"key": run.key, "error": error}


def names(agenda: Agenda) -> list[str]:
    return [f"{run.name} {run.seed}" for run in agenda.left()]


def test_what_one_takes_no_other_does_until_it_is_given_back(opened: Open) -> None:
    one, two = opened(), opened()
    with two:
        with one:
            taken = [one.take(), two.take(), one.take()]
            assert [str(run) for run in taken] == ["reference, seed 0", "dpo, seed 0", "simpo, seed 0"]
            one.close(RUNS[0], record(RUNS[0]))
            assert str(two.take()) == "reference, seed 1"
        assert str(two.take()) == "simpo, seed 0"
        assert two.count() == (1, 6)


def test_what_is_ready_comes_first(opened: Open) -> None:
    with opened() as agenda:
        assert agenda.take(lambda run: run.seed == 1) == RUNS[4]
        assert agenda.take(lambda run: False) == RUNS[0]


def test_a_failure_is_tried_again_by_those_who_come_after_it(opened: Open) -> None:
    with opened() as one:
        run = one.take()
        assert run is not None
        at_the_same_time = opened()
        one.close(run, record(run, "no"))
        assert one.failed() == at_the_same_time.failed() == [run]
        for agenda in (one, at_the_same_time):
            assert "reference 0" not in names(agenda)
        with opened() as later:
            assert later.take() == run
            later.close(run, record(run))
        assert opened().failed() == []
        assert names(opened()) == ["dpo 0", "simpo 0", "reference 1", "dpo 1", "simpo 1"]


def test_what_others_finish_brings_further_runs(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs.jsonl")
    agenda = Agenda(log, tmp_path, lambda: RUNS[:2] if log.finished(RUNS[0]) else RUNS[:1])
    assert agenda.count() == (0, 1)
    RunLog(tmp_path / "runs.jsonl").add(record(RUNS[0]))
    assert agenda.left() == [RUNS[1]]


def test_many_append_and_every_line_is_whole(tmp_path: Path) -> None:
    logs = [RunLog(tmp_path / "runs.jsonl") for _ in range(4)]
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"key": "cut sho')

    def append(number: int) -> None:
        for count in range(25):
            logs[number].add({"key": f"{number} {count}", "error": None, "long": "x" * 5000})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(append, range(4)))
    found = RunLog(tmp_path / "runs.jsonl").records
    assert sorted(found) == sorted(f"{number} {count}" for number in range(4) for count in range(25))
    assert all(len(each["long"]) == 5000 for each in found.values())
