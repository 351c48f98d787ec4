"""What is told of a run beforehand: counted on models without storage, against the models themselves."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from prefopt import PreferenceBatch, zoo
from prefopt.cli import app
from prefopt.scoring import PreferenceModel
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.step_cost import plan_step
from prefopt.training import PreferenceTrainer, plan_run
from tests.training.test_trainer import config

VOCABULARY, HIDDEN, LAYERS = 97, 32, 3
BATCH = PreferenceBatch.from_ids([[1] * 40] * 2, [[2] * 8] * 2, [[3] * 8] * 2, pad_token_id=0)
TOKENS = 2 * 2 * 8


def model(objective: str = "dpo", **options: object) -> PreferenceModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    policy = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))
    return PreferenceModel(policy, copy.deepcopy(policy), zoo.ZOO[objective](), **options)


def parts(whole: PreferenceModel) -> dict[str, tuple[float, int]]:
    return {part.name: (part.operations, part.bytes) for part in plan_step(whole, BATCH).parts}


@pytest.mark.slow
def test_work_is_that_of_the_operations() -> None:
    whole, shared = model("tdpo2"), Layout.shared(BATCH)
    costs = parts(whole)
    with FlopCounterMode(display=False) as counted:
        states = whole.policy.model(**shared.inputs(torch.float32), use_cache=False).last_hidden_state
        forward = counted.get_total_flops()
        states.sum().backward()
    assert costs["policy"][0] == counted.get_total_flops()
    assert costs["reference"][0] == forward
    assert costs["head"][0] == 4 * 2 * TOKENS * HIDDEN * VOCABULARY  # both models, and two gradients
    again = parts(model("tdpo2", logits_budget=0))
    assert again["head"][0] == 6 * 2 * TOKENS * HIDDEN * VOCABULARY
    assert parts(model("simpo"))["head"][0] == 3 * 2 * TOKENS * HIDDEN * VOCABULARY


@pytest.mark.slow
def test_memory_is_what_is_kept_for_backward() -> None:
    whole, shared = model(), Layout.shared(BATCH)
    weights = {p.untyped_storage().data_ptr() for p in whole.policy.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        whole.policy.model(**shared.inputs(torch.float32), use_cache=False)
    embedding = VOCABULARY * HIDDEN * 4
    measured = sum(storage.nbytes() for storage in kept.values())
    assert parts(whole)["policy"][1] - embedding == pytest.approx(measured, rel=0.03)


@pytest.mark.slow
def test_nothing_is_computed_and_nothing_changed() -> None:
    whole = model("sparsepo_token")
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    plan_step(whole, BATCH)
    assert all(parameter.grad is None for parameter in whole.parameters())
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    whole(BATCH).loss.backward()


@pytest.mark.slow
def test_an_adapter_takes_less_and_masks_take_more() -> None:
    plain = parts(model())
    policy = model().policy
    lora = get_peft_model(policy, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    adapted = parts(PreferenceModel(lora, None, zoo.dpo()))
    assert adapted["policy"][0] < plain["policy"][0]
    assert adapted["head"][0] == plain["head"][0] - 2 * TOKENS * HIDDEN * VOCABULARY
    masked = parts(model("sparsepo"))
    assert masked["signals and masks"][1] >= LAYERS * TOKENS * HIDDEN * 4 > plain["signals and masks"][1]


@pytest.mark.slow
def test_checkpointing_keeps_less_and_computes_more() -> None:
    whole = model()
    plain = parts(whole)
    whole.activation_checkpointing_enable()
    whole.policy.train()
    checkpointed = parts(whole)
    assert checkpointed["policy"][1] < plain["policy"][1]
    assert checkpointed["policy"][0] > plain["policy"][0]


def test_of_a_run(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(out, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    plan = plan_run(PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows))
    assert (plan.pairs, plan.passes) == (4, 2)
    assert plan.weights == 2 * plan.gradients  # the reference has none
    assert plan.optimizer == 2 * plan.gradients
    assert plan.bytes == plan.weights + plan.gradients + plan.optimizer + plan.step.bytes
    assert [row[0] for row in plan.rows()][-1] == "all"


def test_from_the_command_line(model_folder: str, rows: list[dict[str, str]], out: str, tmp_path: Path) -> None:
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    file = tmp_path / "run.yaml"
    training = {"output_dir": out, "use_cpu": True, "report_to": "none", "max_steps": 1}
    run = {"model": model_folder, "data": str(data), "objective": "dpo", "training": training}
    file.write_text(yaml.safe_dump(run))
    result = CliRunner().invoke(app, ["train", str(file), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "the heaviest step" in result.output
    assert "GFLOP" in result.output


def test_a_model_that_cannot_be_traced_is_trained_without_a_plan(
    model_folder: str, rows: list[dict[str, str]], out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untraceable(_: object) -> None:
        raise RuntimeError("data-dependent")

    monkeypatch.setattr("prefopt.training.plan_run", untraceable)
    data, file = tmp_path / "rows.json", tmp_path / "run.yaml"
    data.write_text(json.dumps(rows))
    training = {"output_dir": out, "use_cpu": True, "report_to": "none", "max_steps": 1, "disable_tqdm": True}
    file.write_text(
        yaml.safe_dump({"model": model_folder, "data": str(data), "objective": "dpo", "training": training})
    )
    refused = CliRunner().invoke(app, ["train", str(file), "--dry-run"])
    assert refused.exit_code == 1
    assert "No plan: RuntimeError: data-dependent" in refused.output
    assert CliRunner().invoke(app, ["train", str(file)]).exit_code == 0
    assert (Path(out) / "model.safetensors").exists()
