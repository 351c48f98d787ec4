"""The log: what is finished stays, whatever happens to the file or the disk."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from prefopt.comparison.run import Run
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.suite import Suite
from tests.comparison.test_suite import SUITE

RUNS = Suite.model_validate({**SUITE, "seeds": [0, 1]}).runs()  # of one seed: reference, dpo, the same, simpo


def record(run: Run, error: str | None = None) -> dict[str, Any]:
    return {"key": run.key, "error": error}


def test_a_record_replaces_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    RunLog(path).add(record(RUNS[0]))
    with path.open("a") as file:
        file.write('{"key": "cut sho')
    RunLog(path).add(record(RUNS[1]))
    assert RunLog(path).records.keys() == {RUNS[0].key, RUNS[1].key}
    assert len(path.read_text().splitlines()) == 2


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
