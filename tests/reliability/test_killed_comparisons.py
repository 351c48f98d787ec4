"""kill -9 while a reference cache is filled, or a comparison carried out, costs nothing that was finished."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from prefopt import zoo
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import Suite
from prefopt.scoring.reference import tensor_store
from prefopt.scoring.reference.tensor_store import TensorStore
from prefopt.training import PreferenceTrainer
from tests.comparison.test_suite import QUIET, SUITE, measured
from tests.reliability.figures import record
from tests.reliability.forked_calls import ForkedCalls
from tests.training.test_trainer import config

Values = dict[str, Any]
Rows = list[dict[str, str]]

COMPARED = {**SUITE, "objectives": {"dpo": "dpo", "sparsepo": "sparsepo"}}
"""Four runs: the untrained reference, two objectives, and the control of the one with a mask."""


def comparison() -> Callable[[Path], None]:
    suite = Suite.model_validate(COMPARED)
    warnings.filterwarnings("error", message=".*(not a whole record|it is removed)")  # nothing is damaged by a kill

    def carry_out(out: Path) -> None:
        assert compare(suite, out, console=QUIET, processes=1) == []

    return carry_out


def results(out: Path) -> Values:
    """What was measured of each run, how many records there are, and the names in the folder."""
    records = (out / "runs.jsonl").read_text().splitlines()
    names = {path.name for folder in (out, out / "material") for path in folder.iterdir() if path.suffix != ".lock"}
    return {**measured(out), "records": len(records), "names": names}


def filling(model: str, rows: Rows) -> Callable[[Path], None]:
    tensor_store.SHARD_BYTES = 4096  # about a shard for every pair
    warnings.filterwarnings("error", message=".*it is removed")

    def fill(out: Path) -> None:
        options: dict[str, Any] = {"reference_cache": str(out), "per_device_eval_batch_size": 1}
        trainer = PreferenceTrainer(
            model, objective=zoo.tdpo2(), args=config(f"{out}-run", **options), train_dataset=rows
        )
        trainer.precompute_reference()

    return fill


def entries(out: Path) -> Values:
    """The states of each response."""
    (folder,) = out.iterdir()
    store = TensorStore(folder, ["final"])
    keys = [*store._locations]
    return {key: store.read([key])["final"] for key in keys}


def differences(expected: Values, values: Values) -> Iterator[str]:
    yield from sorted(expected.keys() ^ values.keys())
    for key in expected.keys() & values.keys():
        one, two = expected[key], values[key]
        if not (torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two):
            yield key


def survive(
    calls: ForkedCalls, folder: Path, read: Callable[[Path], Values], name: str, kills: int, processes: int = 1
) -> None:
    """Kill calls at times that are drawn, and compare what they come to when they are made again. Of several at once
    all are killed, or the first."""
    draw = random.Random(0)
    seconds = calls.call(folder / "whole", processes=processes).seconds
    expected = read(folder / "whole")
    tried, failures = 0, list[str]()
    while tried < kills:
        out, delay = folder / f"call-{draw.random()}", draw.uniform(0, seconds)
        if not calls.call(out, processes=processes, delay=delay, victims=draw.choice([1, processes])).killed:
            continue  # it was over before
        tried += 1
        calls.call(out, processes=processes)
        if names := list(differences(expected, read(out))):
            failures.append(f"kill {tried} of {name}, after {delay:.3f} s: {names[:3]} differ")
    record("kills", name, tried=kills, survived=kills - len(failures))
    assert not failures, "\n".join(failures)


FORMS = [
    pytest.param(1, 1, marks=pytest.mark.outside, id="a kill"),
    pytest.param(1, 40, marks=pytest.mark.reliability, id="forty kills"),
    pytest.param(2, 20, marks=pytest.mark.reliability, id="twenty kills of two at once"),
]


def title(what: str, processes: int) -> str:
    return f"{('one process', 'two processes')[processes - 1]}: {what}"


@pytest.mark.parametrize(("processes", "kills"), FORMS[:2])
def test_killed_comparisons(processes: int, kills: int, tmp_path: Path) -> None:
    """One call at a time has a folder."""
    with ForkedCalls(comparison, tmp_path / "log") as calls:
        survive(calls, tmp_path, results, title("carrying out a comparison", processes), kills, processes)


@pytest.mark.parametrize(("processes", "kills"), FORMS)
def test_killed_filling_of_a_reference_cache(
    processes: int, kills: int, model_folder: str, rows: Rows, tmp_path: Path
) -> None:
    with ForkedCalls(partial(filling, model_folder, rows), tmp_path / "log") as calls:
        survive(calls, tmp_path, entries, title("filling a reference cache", processes), kills, processes)
