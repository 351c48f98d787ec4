"""What another number of processes wrote goes on as if it had never stopped, or is refused before training."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefopt.training.manifest import CheckpointError
from prefopt.training.spread import Spread, reject_unreadable
from tests.forked import run_module
from tests.training.test_zero import same_figures

SCRIPT = "tests.training.resumed_processes"

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(model_folder: str, rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains in a way, on some processes and with some batch, from a checkpoint or from the start; the run's folder.

    What is trained from the start is trained once.
    """
    folder = tmp_path_factory.mktemp("runs")
    data = folder / "rows.json"
    data.write_text(json.dumps(rows))

    def run(way: str, processes: int, batch: int = 0, checkpoint: Path | str = "") -> Path:
        batch = batch or 8 // processes
        out = folder / f"{way} {processes} {batch} {checkpoint and Path(checkpoint).parent.name}"
        if not out.exists():
            launched = "copies" not in way
            run_module(SCRIPT, processes, model_folder, data, out, way, processes, batch, checkpoint, launched=launched)
        return out

    return run


@pytest.mark.long
@pytest.mark.parametrize(
    ("way", "wrote", "resumes", "batch"),
    [
        *(
            (way, wrote, 3 - wrote, 8 // (3 - wrote))
            for way in ("copies", "fsdp", "fsdp, in parts")
            for wrote in (2, 1)
        ),
        ("copies, of a stream", 2, 1, 8),
        ("copies", 2, 1, 4),
    ],
)
def test_another_number_of_processes_goes_on(way: str, wrote: int, resumes: int, batch: int, run: Run) -> None:
    resumed = run(way, resumes, batch, run(way, wrote) / "checkpoint-3")
    one = run("copies, of a stream" if "stream" in way else "copies", 1)
    logs, expected = (json.loads((out / "logs").read_text()) for out in (resumed, one))
    assert len(expected) == 6
    same_figures(logs, expected)
    for name in ("model", "objective", "moments"):
        values, unbroken = (load_file(out / f"{name}.safetensors") for out in (resumed, one))
        assert values.keys() == unbroken.keys()
        for key, value in unbroken.items():
            torch.testing.assert_close(values[key], value, rtol=1e-4, atol=1e-5, msg=f"{name}: {key}")


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed")
@pytest.mark.parametrize("way", ["zero2", "zero3"])
@pytest.mark.parametrize("wrote", [2, 1])
def test_parts_of_zero_are_refused(way: str, wrote: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    checkpoint = run(way, wrote) / "checkpoint-3"
    error = (run(way, 3 - wrote, checkpoint=checkpoint) / "error").read_text()
    assert error.startswith(f"{checkpoint}: its state was saved by DeepSpeed")
    assert f"go on as it was saved ({wrote} process" in error


@pytest.mark.long
@pytest.mark.parametrize(("wrote", "reads"), [("fsdp", "copies"), ("copies", "fsdp"), ("fsdp", "fsdp, in parts")])
def test_a_state_of_another_kind_is_refused(wrote: str, reads: str, run: Run) -> None:
    checkpoint = run(wrote, 2) / "checkpoint-3"
    error = (run(reads, 2, checkpoint=checkpoint) / "error").read_text()
    assert error.startswith(f"{checkpoint}: its state was saved by")
    assert "cannot be read by" in error


FILES = {
    "copies of the model on 1 process": ["rng_state.pth", "optimizer.pt"],
    "copies of the model on 2 processes": ["rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"],
    "FSDP with state_dict_type FULL_STATE_DICT on 1 process": ["rng_state.pth", "pytorch_model_fsdp.bin"],
    "FSDP with state_dict_type SHARDED_STATE_DICT on 1 process": ["pytorch_model_fsdp_0/.metadata"],
    "DeepSpeed below ZeRO-3 on 1 process": ["global_step3/mp_rank_00_model_states.pt"],
    "DeepSpeed's ZeRO-3 on 1 process": ["global_step3/zero_pp_rank_0_mp_rank_00_model_states.pt"],
}
"""Spread -> files of a checkpoint."""


@pytest.mark.parametrize("spread", FILES)
def test_its_files_say_how_a_state_is_spread(spread: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in FILES[spread]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert str(Spread.saved(tmp_path)) == spread
    accelerator = SimpleNamespace(state=None)
    trainer: Any = SimpleNamespace(
        is_deepspeed_enabled=False, is_fsdp_enabled=False, accelerator=accelerator, args=SimpleNamespace(world_size=1)
    )
    if not spread.startswith("copies"):
        with pytest.raises(CheckpointError, match="go on as it was saved") as refusal:
            reject_unreadable(str(tmp_path), trainer)
        assert ("from its policy" in str(refusal.value)) == ("SHARDED" not in spread)
        return
    with caplog.at_level(logging.WARNING):
        reject_unreadable(str(tmp_path), trainer)
    assert ("(2 there, 1 here)" in caplog.text) == ("2 processes" in spread)
