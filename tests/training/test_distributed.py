"""Two processes give what one gives: the same weights, the same mask, the same metrics; the two ask the
reference together and keep what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefopt.scoring.reference.tensor_store import TensorStore
from prefopt.training.failed_step import FailedStep
from tests.forked import run_module

pytestmark = pytest.mark.outside

SCRIPT = "tests.training.two_processes"


def _run(processes: int, model: str, rows: Path, out: Path, *more: object) -> dict[str, Any]:
    run_module(SCRIPT, processes, model, rows, out, *more)
    return json.loads((out / "result.json").read_text())


def test_two_processes_are_as_one(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    one = _run(1, model_folder, data, tmp_path / "one", 8)
    two = _run(2, model_folder, data, tmp_path / "two", 4, tmp_path / "cache")
    kept = TensorStore(next((tmp_path / "cache").iterdir()), ["final"])
    assert len(list(kept.folder.glob("*.safetensors"))) >= 2
    assert len(kept._locations) == 2 * len(rows)
    for file in ("model.safetensors", "objective.safetensors"):
        expected = load_file(tmp_path / "one" / file)
        for name, tensor in load_file(tmp_path / "two" / file).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5, msg=f"{file}: {name}")
    # The accuracy of the first step is that of margins of 0, of which a cache returns what rounding left.
    of_the_cut = ("runtime", "per_second", "total_flos", "padding/share", "accuracies")
    for logs, expected_logs in zip([*two["log"], two["eval"]], [*one["log"], one["eval"]], strict=True):
        for name, value in logs.items():
            if not any(word in name for word in of_the_cut):
                assert value == pytest.approx(expected_logs[name], rel=2e-3, abs=1e-5), name
    # The numbers of the last process alone were not finite, in the third step, and then in the first of another run.
    assert [logs["skipped_steps"] for logs in two["log"] if "skipped_steps" in logs] == [0, 0, 1, 0, 0]
    for name, processes in (("one", 1), ("two", 2)):
        errors = {"one": one, "two": two}[name]["errors"]
        assert len(errors) == processes
        assert len(set(errors)) == 1
        assert errors[0].startswith("step 1, row ")
        step = FailedStep.load(tmp_path / name)
        assert [process for process, *_ in step.batches] == list(range(processes))
        assert sum(batch.pairs for _, batch, _ in step.batches) == 8
