"""Every gate trains where masks are: under adapters, with activations recomputed, in bfloat16, on two processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prefopt import Objective, ObjectiveConfig, zoo
from prefopt.divergences import ForwardKL
from prefopt.objective_config import DivergenceTerm
from prefopt.training import PreferenceTrainer
from prefopt.training.optimizer import parameter_groups
from prefopt.weightings import SparseWeighting
from prefopt.weightings.sparse.gates import GATES
from tests.forked import run_module
from tests.training.test_trainer import config

LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.1)
WAYS: dict[str, dict[str, Any]] = {
    "adapter": {"peft_config": LORA},
    "checkpointing": {"activation_checkpointing": True},
    "bf16": {"bf16": True},
}


def masked(gate: str) -> ObjectiveConfig:
    """A mask of that gate and another one for the divergence, of two layers, each with its penalty where it has one."""
    fields = {"gate": gate, "init": "near_one", "position": "token", "scale": "mean_one"}
    fields |= {"l0": 1e-3} if gate in ("binary", "hard_concrete") else {}
    divergence_mask = SparseWeighting(**fields, architecture="two_layer", hidden_width=4)
    return ObjectiveConfig(
        weighting=SparseWeighting(**fields), divergence=DivergenceTerm(measure=ForwardKL(), weighting=divergence_mask)
    )


def learned(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters() if tensor.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gate", GATES)
def test_every_gate_trains(gate: str, way: str, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    changes = dict(WAYS[way])
    adapter = {"peft_config": changes.pop("peft_config")} if "peft_config" in changes else {}
    trainer = PreferenceTrainer(
        model_folder, objective=masked(gate), args=config(out, max_steps=3, **changes), train_dataset=rows, **adapter
    )
    parts = {"policy": trainer.model.policy, "objective": trainer.model.objective}
    before = {name: learned(part) for name, part in parts.items()}
    trainer.train()
    for name, part in parts.items():
        after = learned(part)
        assert all(tensor.isfinite().all() for tensor in after.values())
        moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[name][key])}
        assert moved
        if name == "objective":
            assert {"weighting.weight", "divergence_weighting.weight", "divergence_weighting.hidden.weight"} <= moved
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.outside
def test_two_processes_train_every_gate_alike(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    """The processes agree on policy and mask after every run, whatever noise each of them drew."""
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    run_module("tests.training.gates_on_two_processes", 2, model_folder, data, tmp_path)
    for gate in GATES:
        first, second = (torch.load(tmp_path / f"{gate}-{rank}.pt") for rank in range(2))
        for name, tensor in first["after"].items():
            assert tensor.isfinite().all()
            assert torch.equal(tensor, second["after"][name]), f"{gate}: {name}"
        changed = {name for name, tensor in first["after"].items() if not torch.equal(tensor, first["before"][name])}
        assert {"objective.weighting.weight", "objective.divergence_weighting.weight"} <= changed
        assert any(name.startswith("policy.") for name in changed)


def test_a_masked_run_is_saved_as_a_plain_model_with_the_mask_beside_it(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    trainer = PreferenceTrainer(
        model_folder, objective=masked("hard_concrete"), args=config(out, max_steps=2), train_dataset=rows
    )
    trainer.train()
    trainer.save_model()
    again = AutoModelForCausalLM.from_pretrained(out)
    plain = set(AutoModelForCausalLM.from_pretrained(model_folder).state_dict())
    assert set(load_file(Path(out) / "model.safetensors")) <= plain
    for one, other in zip(again.parameters(), trainer.model.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    loaded, mask = Objective.load(out), trainer.model.objective
    assert loaded.config == mask.config
    assert loaded.state_dict().keys() == mask.state_dict().keys()
    assert all(torch.equal(tensor, mask.state_dict()[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("rates", "warns"),
    [
        ({"learning_rate": 1e-6}, True),
        ({"learning_rate": 1e-2}, False),
        ({"learning_rate": 1e-6, "mask_learning_rate": 5e-3}, False),
    ],
)
def test_a_mask_at_a_small_rate_of_the_policy_is_told(
    rates: dict[str, float], warns: bool, out: str, caplog: pytest.LogCaptureFixture
) -> None:
    objective = Objective(masked("sigmoid"), num_layers=2, hidden_size=4)
    assert list(parameter_groups(objective, (), config(out, **rates)))
    assert ("mask_learning_rate is not set" in caplog.text) == warns


def test_a_two_layer_mask_decays_its_matrices_alone(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(out, mask_learning_rate=0.5, mask_weight_decay=0.25)
    trainer = PreferenceTrainer(model_folder, objective=masked("sigmoid"), args=args, train_dataset=rows)
    groups = trainer.create_optimizer().param_groups
    names = {id(parameter): name for name, parameter in trainer.model.objective.named_parameters()}
    trained = {names[id(p)]: group for group in groups for p in group["params"] if id(p) in names}
    assert trained.keys() == set(names.values())
    assert {group["lr"] for group in trained.values()} == {0.5}
    decayed = {name for name, group in trained.items() if group["weight_decay"] == 0.25}
    assert decayed == {name for name in trained if name.endswith(("weight", "mixer")) and "norm" not in name}
    assert all(group["weight_decay"] == 0 for name, group in trained.items() if name not in decayed)
    assert zoo.sparsepo().weighting.dropout == 0
