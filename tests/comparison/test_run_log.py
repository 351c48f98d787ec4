"""The queue: each run is for one process, however many share the folder; and the log that all append to."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prefopt.comparison.run import Run
from prefopt.comparison.run_log import RunLog, RunQueue
from prefopt.comparison.suite import Suite
from tests.comparison.test_suite import SUITE

RUNS = Suite.model_validate({**SUITE, "seeds": [0, 1]}).runs()  # of one seed: reference, dpo, the same, simpo
Open = Callable[[], RunQueue]


@pytest.fixture
def open_queue(tmp_path: Path) -> Open:
    return lambda: RunQueue(RunLog(tmp_path / "runs.jsonl"), tmp_path, lambda: RUNS)


def record(run: Run, error: str | None = None) -> dict[str, Any]:
    return {"key": run.key, "error": error}


def names(queue: RunQueue) -> list[str]:
    return [f"{run.name} {run.seed}" for run in queue.pending()]


def test_a_run_is_claimed_once_until_it_is_released(open_queue: Open) -> None:
    one, two = open_queue(), open_queue()
    with two:
        with one:
            claimed = [one.claim(), two.claim(), one.claim()]
            assert [str(run) for run in claimed] == ["reference, seed 0", "dpo, seed 0", "simpo, seed 0"]
            one.finish(RUNS[0], record(RUNS[0]))
            assert str(two.claim()) == "reference, seed 1"
        assert str(two.claim()) == "simpo, seed 0"
        assert two.count() == (1, 6)


def test_ready_runs_come_first(open_queue: Open) -> None:
    with open_queue() as queue:
        assert queue.claim(lambda run: run.seed == 1) == RUNS[4]
        assert queue.claim(lambda run: False) == RUNS[0]


def test_a_failed_run_is_pending_for_later_queues(open_queue: Open) -> None:
    with open_queue() as one:
        run = one.claim()
        assert run is not None
        at_the_same_time = open_queue()
        one.finish(run, record(run, "no"))
        assert one.failed() == at_the_same_time.failed() == [run]
        for queue in (one, at_the_same_time):
            assert "reference 0" not in names(queue)
        with open_queue() as later:
            assert later.claim() == run
            later.finish(run, record(run))
        assert open_queue().failed() == []
        assert names(open_queue()) == ["dpo 0", "simpo 0", "reference 1", "dpo 1", "simpo 1"]


def test_a_run_that_another_process_finishes_brings_further_runs(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs.jsonl")
    queue = RunQueue(log, tmp_path, lambda: RUNS[:2] if log.finished(RUNS[0]) else RUNS[:1])
    assert queue.count() == (0, 1)
    RunLog(tmp_path / "runs.jsonl").add(record(RUNS[0]))
    assert queue.pending() == [RUNS[1]]


def test_many_append_and_no_line_is_torn(tmp_path: Path) -> None:
    logs = [RunLog(tmp_path / "runs.jsonl") for _ in range(4)]
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"key": "cut sho')

    def append(number: int) -> None:
        for count in range(25):
            logs[number].add({"key": f"{number} {count}", "error": None, "long": "x" * 5000})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(append, range(4)))
    records = RunLog(tmp_path / "runs.jsonl").records
    assert sorted(records) == sorted(f"{number} {count}" for number in range(4) for count in range(25))
    assert all(len(record["long"]) == 5000 for record in records.values())


def test_a_record_that_is_damaged_anywhere_is_named_and_its_run_is_pending_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for run in RUNS[:2]:
        RunLog(path).add(record(run) | {"values": {"reward": {"a": 0.25}}})
    first, second = path.read_bytes().splitlines(keepends=True)
    places = range(0, len(first) - 1, 5)
    for damaged in (*(first[:at] + bytes([first[at] ^ 1]) + first[at + 1 :] for at in places), b"\n", first[9:]):
        path.write_bytes(damaged + second)
        with pytest.warns(UserWarning, match="runs.jsonl:1: not a whole record .* its run carried out again"):
            log = RunLog(path)
        assert [log.finished(run) for run in RUNS[:2]] == [False, True]
        assert not {"sha256", "digest"} & log.records[RUNS[1].key].keys()


def test_records_without_a_digest_are_read_whatever_they_end_with(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    last = record(RUNS[0]) | {"ends_with": "a" * 64}
    path.write_text(json.dumps(last) + "\n")
    assert RunLog(path).records == {RUNS[0].key: last}


def test_a_record_of_another_configuration_is_left_out(tmp_path: Path) -> None:
    path, strange = tmp_path / "runs.jsonl", RUNS[1].configuration | {"seed": 7}
    RunLog(path).add(record(RUNS[0]) | {"configuration": RUNS[0].configuration})
    assert RunLog(path).finished(RUNS[0])
    with pytest.warns(UserWarning, match="runs.jsonl:2: .*its key is not that of its configuration"):
        RunLog(path).add(record(RUNS[1]) | {"configuration": strange})


def test_no_failure_and_no_nan_replaces_what_is_finite(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs.jsonl")
    values = [{"reward": {"a": value}} for value in (float("nan"), 0.25, float("inf"), 0.5)]
    for value in values:
        log.add(record(RUNS[0]) | {"values": value})
    log.add(record(RUNS[0], "no"))
    assert RunLog(log.path).records[RUNS[0].key]["values"] == log.records[RUNS[0].key]["values"] == values[3]
    assert len(log.path.read_text().splitlines()) == 5


def test_a_full_disk_is_one_line_and_the_log_goes_on(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs.jsonl")
    log.add(record(RUNS[0]))
    before = log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a record of [0-9,]+ bytes cannot be written .*make room.*runs.jsonl"):
            log.add(record(RUNS[1]) | {"long": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.path.read_bytes() == before
    log.add(record(RUNS[1]))
    assert [json.loads(line)["key"] for line in log.path.read_text().splitlines()] == [run.key for run in RUNS[:2]]
