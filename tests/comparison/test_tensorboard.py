"""What TensorBoard reads is what the records have."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from prefopt.comparison.run import Run
from prefopt.comparison.suite import Suite
from prefopt.comparison.tensorboard import FOLDER, run_folder, write_run, write_runs
from tests.comparison.test_suite import SUITE

RUNS = Suite.model_validate({**SUITE, "sweeps": {"objective.beta": [0.1, 1.0], "training.optim": ["sgd"]}}).runs()


def record(run: Run, scale: float = 1.0) -> dict[str, Any]:
    curves = {"loss": [[5, 0.5 * scale], [10, 0.25]], "rewards/margin": [[5, 1.0], [10, 2.0]]}
    values = {"reward": {"a": 1.0, "b": 2.0 * scale}, "kl": {}}
    return {"key": run.key, "error": None, "curves": curves if run.objective else {}, "values": values}


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(accumulator: EventAccumulator) -> dict[str, list[list[float]]]:
    return {
        tag: [[event.step, event.value] for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def hyperparameters(accumulator: EventAccumulator) -> dict[str, Any]:
    content = accumulator.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in hparams.items()}


def test_scalars_and_hyper_parameters_of_a_run(tmp_path: Path) -> None:
    run = RUNS[1]
    write_run(run, record(run, 3.0), tmp_path)
    write_run(run, record(run), tmp_path)  # again: what was there before is gone
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [
        "dpo, objective.beta 0.1, training.optim sgd, seed 0"
    ]
    accumulator = read(tmp_path / FOLDER / run_folder(run))
    values = record(run)["values"]["reward"].values()
    assert scalars(accumulator) == record(run)["curves"] | {"final/reward": [[10, pytest.approx(fmean(values))]]}
    assert hyperparameters(accumulator) == {
        "objective": "dpo",
        "seed": 0.0,
        "objective.beta": 0.1,
        "training.optim": "sgd",
    }


def test_all_that_is_finished_and_nothing_else(tmp_path: Path) -> None:
    old = dataclasses.replace(RUNS[1], name="old")
    write_run(old, record(old), tmp_path)
    records = {run.key: record(run) for run in RUNS[:3]} | {RUNS[5].key: record(RUNS[5]) | {"error": "no"}}
    write_runs(RUNS, records, tmp_path)
    # The same run stands under each of its names.
    kept = [RUNS[0], RUNS[1], RUNS[2], RUNS[3], RUNS[4]]
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == {run_folder(run) for run in kept}
    assert scalars(read(tmp_path / FOLDER / run_folder(RUNS[0]))) == {"final/reward": [[0, 1.5]]}


def test_folders_can_be_told_apart() -> None:
    def folder(name: str) -> str:
        return run_folder(dataclasses.replace(RUNS[1], name=name))

    names = ("a/b", "a_b", "a%2Fb", "..", "ä" * 100, "ä" * 101)
    assert len({folder(name) for name in names}) == len(names)
    assert all("/" not in folder(name) and len(folder(name)) < 250 for name in names)
