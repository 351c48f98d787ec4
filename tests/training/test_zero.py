"""Two processes under DeepSpeed's ZeRO give what one process without it gives."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.forked import run_module

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed"),
]

SCRIPT = "tests.training.zero_processes"
OF_THE_CUT = ("runtime", "per_second", "total_flos", "padding/share", "accuracies")
"""Figures of how rows are spread; the accuracy of the first step is that of margins of 0."""


@pytest.fixture(scope="module")
def data(rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def one(model_folder: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    run_module(SCRIPT, 1, model_folder, data, out, 0)
    return out


@pytest.mark.parametrize("stage", [2, 3])
def test_spread_runs_are_as_one(
    stage: int, model_folder: str, data: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    run_module(SCRIPT, 2, model_folder, data, tmp_path, stage)
    results, expected = (json.loads((out / "results.json").read_text()) for out in (tmp_path, one))
    for name, run in results.items():
        same_figures([*run["steps"], run["eval"]], [*expected[name]["steps"], expected[name]["eval"]])
        same_figures([run["resumed"]], [run["steps"][-1]])
        for path in sorted((one / name).glob("*.safetensors")):
            tensors = load_file(tmp_path / name / path.name)
            for key, tensor in load_file(path).items():
                torch.testing.assert_close(tensors[key], tensor, rtol=1e-4, atol=1e-6, msg=f"{name}, {key}")


def same_figures(logs: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(logs) == len(expected)
    for entry, other in zip(logs, expected, strict=True):
        for key, value in other.items():
            if not any(word in key for word in OF_THE_CUT):
                assert entry[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
