"""kill -9 at any moment of a run costs nothing that was saved, and the run that goes on is as the one never killed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from prefopt.objective import Objective
from prefopt.training.manifest import reject_damaged
from prefopt.whole_files import UNFINISHED
from tests.reliability.figures import record
from tests.reliability.killed_runs import ForkedRuns, Inputs, PairsOfRuns
from tests.reliability.moments import CHECKPOINT, MOVING, PHASES, ROTATING, WRITING, Kill, Moment, draw_kill

EVERYWHERE = frozenset(PHASES)


def saved_values(folder: Path) -> dict[str, Any]:
    """All numbers of a checkpoint, or of a policy: weights, mask, optimizer, schedule, random states, log."""
    values: dict[str, Any] = {}
    for file in folder.glob("*.safetensors"):
        values |= {f"{file.name}: {key}": value for key, value in load_file(file).items()}
    for file in (*folder.glob("*.pt"), *folder.glob("*.pth")):
        with safe_globals():
            values |= {f"{file.name}: {key}": value for key, value in flat(torch.load(file, weights_only=True))}
    state = folder / "trainer_state.json"
    if state.is_file():
        logs = json.loads(state.read_text())["log_history"]
        values["log"] = [entry for entry in logs if "loss" in entry]
    return values


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    value = torch.from_numpy(value.astype("int64")) if isinstance(value, np.ndarray) else value
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(part, f"{name}.{key}")
    else:
        yield name, value


def differences(folder: Path, expected: dict[str, Any]) -> list[str]:
    """The names of values that are not bit by bit as expected."""
    values = saved_values(folder)
    absent = sorted(expected.keys() ^ values.keys())
    return absent + [
        name
        for name, value in values.items()
        if name in expected
        and not (torch.equal(value, expected[name]) if isinstance(value, torch.Tensor) else value == expected[name])
    ]


def survive(runs: ForkedRuns | PairsOfRuns, folder: Path, wanted: list[tuple[frozenset[str], bool]], name: str) -> None:
    """Kill a run at each of these phases, or moments of them, and compare it after it has gone on."""
    draw = random.Random(0)
    whole = folder / "whole"
    moments: list[Moment] = runs.run(whole, None).moments
    expected = {path.name: saved_values(path) for path in [*whole.glob("checkpoint-*"), whole]}
    assert {phase for phase, _ in moments} == EVERYWHERE
    assert any(name.startswith("objective.safetensors: ") for name in expected["whole"])
    assert len(expected["whole"]["log"]) == 10
    tried, failures = Counter[str](), list[str]()
    for number, (phases, at_moment) in enumerate(wanted):
        out, end = folder / f"run-{number}", None
        while end is None or not end.killed:  # a run that was over before its moment came is not counted
            out = folder / f"run-{number}-{draw.random()}"
            kill: Kill = draw_kill(moments, phases, draw, at_moment=at_moment)
            end = runs.run(out, kill)
        tried[end.phase] += 1
        what = f"kill {number} of {name}, {end.phase} ({kill})"
        for path in out.glob("checkpoint-*"):
            if absent := sorted(expected["checkpoint-10"].keys() - saved_values(path).keys()):
                failures.append(f"{what}: {path.name} is not whole, without {absent[:3]}")
        runs.run(out, None)
        for path_name, values in expected.items():
            if names := differences(out if path_name == "whole" else out / path_name, values):
                failures.append(f"{what}: {path_name} differs: {names[:3]}")
        if (out / UNFINISHED).exists():
            failures.append(f"{what}: {UNFINISHED} is left")
    for phase, count in tried.items():
        lost = len({text.partition(":")[0] for text in failures if f", {phase} (" in text})
        record("kills", f"{name}: {phase}", tried=count, survived=count - lost)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param([WRITING], marks=pytest.mark.outside, id=WRITING),
        pytest.param(PHASES, marks=pytest.mark.long, id="every phase"),
    ],
)
def test_a_killed_run_goes_on_as_one_never_killed(
    phases: Sequence[str], model_folder: str, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    with ForkedRuns(Inputs(model_folder, rows), tmp_path) as runs:
        at_moments = {ROTATING, MOVING}  # which take no time
        survive(runs, tmp_path, [(frozenset({phase}), phase in at_moments) for phase in phases], "one process")


@pytest.mark.reliability
def test_a_hundred_kills(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    with ForkedRuns(Inputs(model_folder, rows), tmp_path) as runs:
        at_any_time = [(EVERYWHERE, False)] * 25 + [(EVERYWHERE, True)] * 25
        in_checkpoints = [(CHECKPOINT, False)] * 25 + [(CHECKPOINT, True)] * 25
        survive(runs, tmp_path, at_any_time + in_checkpoints, "one process")


@pytest.mark.reliability
@pytest.mark.parametrize("state", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_ten_kills_of_two_processes_that_share_a_model(
    state: str, model_folder: str, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    with PairsOfRuns(Inputs(model_folder, rows, state), tmp_path) as runs:
        wanted = [(CHECKPOINT, False)] * 4 + [(CHECKPOINT, True)] * 4 + [(EVERYWHERE, True)] * 2
        survive(runs, tmp_path, wanted, f"two processes, FSDP2, {state}")


@pytest.mark.long
def test_a_checkpoint_in_parts_is_whole_or_absent(
    model_folder: str, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with PairsOfRuns(Inputs(model_folder, rows, "SHARDED_STATE_DICT"), tmp_path) as runs:
        assert runs.run(out, Kill(10, 0.0)).phase == WRITING
        assert not list(out.glob("checkpoint-*"))
        runs.run(out, None)
    manifest = reject_damaged(out / "checkpoint-10")
    assert manifest is not None
    assert {"rng_state_0.pth", "rng_state_1.pth", "pytorch_model_fsdp_0/__1_0.distcp"} <= set(manifest.files)
    assert saved_values(out).keys() >= {"model.safetensors: lm_head.weight", "log"}
    assert Objective.load(out).config.weighting.name == "sparse"


@pytest.mark.reliability
def test_twenty_kills_of_two_processes(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    with PairsOfRuns(Inputs(model_folder, rows), tmp_path) as runs:
        wanted = [(EVERYWHERE, False)] * 10 + [(CHECKPOINT, False)] * 5 + [(CHECKPOINT, True)] * 5
        survive(runs, tmp_path, wanted, "two processes")
