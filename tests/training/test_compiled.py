"""torch_compile in the trainer's arguments compiles the parts of a step, and changes nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    logging.disable(logging.DEBUG)
    yield
    logging.disable(logging.NOTSET)
    torch.compiler.reset()


def test_a_compiled_run_is_the_run(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    logs = []
    for backend in (None, "eager"):
        args = config(str(tmp_path / str(backend)), torch_compile_backend=backend, max_steps=2)
        trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)
        trainer.train()
        trainer.save_model()
        logs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert type(trainer.model_wrapped) is PreferenceModel, "and not compiled as a whole"
        assert (trainer.model.policy.base_model._compiled_call_impl is None) == (backend is None)
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
    saved = [load_file(tmp_path / name / "model.safetensors") for name in ("None", "eager")]
    assert saved[0].keys() == saved[1].keys()
    for name, tensor in saved[0].items():
        torch.testing.assert_close(saved[1][name], tensor, rtol=1e-4, atol=1e-6)
