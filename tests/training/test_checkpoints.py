"""What is written of a model that was gathered from its shards."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from prefopt import Objective, zoo
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import NEAR_ONE, config


def test_a_gathered_state_is_what_is_saved(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    objective = zoo.build({"zoo": "sparsepo", **NEAR_ONE})
    trainer = PreferenceTrainer(model_folder, objective=objective, args=config(out), train_dataset=rows)
    state = {name: tensor + 1 for name, tensor in trainer.model.state_dict().items()}
    trainer._save(out, state)
    for name, tensor in Objective.load(out).state_dict().items():
        assert torch.equal(tensor, state[f"objective.{name}"])
    for name, tensor in load_file(Path(out) / "model.safetensors").items():
        assert torch.equal(tensor, state[f"policy.{name}"])
