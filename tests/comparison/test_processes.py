"""Several processes at one comparison: the same results as one, deaths that stay alone, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from prefopt.comparison import launch
from prefopt.comparison.agenda import Agenda
from prefopt.comparison.planted import PlantedTask
from prefopt.comparison.process import PoolError
from prefopt.comparison.records import RunLog
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import Suite
from tests.comparison.hazard import EXITS, KILLED, RAISES, SLOW, Hazard
from tests.comparison.test_suite import QUIET, SUITE, TASK, measured


def suite_of(*betas: float, **changes: Any) -> Suite:
    task = Hazard(planted=PlantedTask(**TASK))
    sweeps = {"objective.beta": list(betas)}
    return Suite.model_validate({**SUITE, "task": task, "sweeps": sweeps, "objectives": {"dpo": "dpo"}, **changes})


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """What a worker of two has, so that sums are added in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_two_processes_find_what_one_finds_and_a_death_fails_its_run_alone(tmp_path: Path) -> None:
    suite = suite_of(0.1, EXITS, KILLED, RAISES, seeds=[0, 1])
    failed = compare(suite, tmp_path / "two", console=QUIET, processes=2)
    assert sorted((run.setting["objective.beta"], run.seed) for run in failed) == [
        (beta, seed) for beta in (EXITS, KILLED, RAISES) for seed in (0, 1)
    ]
    records = RunLog(tmp_path / "two" / "runs.jsonl").records
    of = {run.setting["objective.beta"]: records[run.key] for run in failed}
    assert of[EXITS]["error"] == "WorkerDied: the run's process ended with exit code 3"
    assert "some last words" in of[EXITS]["traceback"]
    assert of[KILLED]["error"].startswith("WorkerDied: the run's process was ended by SIGKILL")
    assert of[RAISES]["error"] == "RuntimeError: no"
    compare(suite_of(0.1, seeds=[0, 1]), tmp_path / "one", console=QUIET)
    one, two = measured(tmp_path / "one"), measured(tmp_path / "two")
    assert len(one) == 4
    assert {key: two[key] for key in one} == one
