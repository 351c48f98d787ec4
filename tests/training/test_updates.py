"""A policy that nothing trains: an error before training, or after its first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from prefopt import Objective, zoo
from prefopt.training import PreferenceTrainer
from prefopt.training.updates import checksum
from tests.training.test_trainer import config

LORA = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")


@pytest.fixture
def trainer(rows: list[dict[str, str]], out: str) -> Any:
    def make(model: Any, ref_model: Any = None, **inputs: Any) -> PreferenceTrainer:
        changes = inputs.pop("changes", {})
        args = config(out, **changes)
        return PreferenceTrainer(model, ref_model, objective=zoo.dpo(), args=args, train_dataset=rows, **inputs)

    return make


def test_an_adapter_that_is_loaded_to_be_used(trainer: Any, model_folder: str, tmp_path: Any) -> None:
    get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), LORA).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), tmp_path)
    frozen = trainer(model)
    frozen.evaluate(frozen.train_dataset)
    with pytest.raises(ValueError, match=r"no parameter that trains.*is_trainable=True"):
        frozen.train()
    whole = AutoModelForCausalLM.from_pretrained(model_folder).requires_grad_(False)
    with pytest.raises(ValueError, match=r"no parameter that trains.*set requires_grad"):
        trainer(whole).train()


def test_a_policy_that_is_its_reference_too(trainer: Any, model_folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with pytest.raises(ValueError, match=r"the two are one model; leave the reference \(ref_model\) out"):
        trainer(model, model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="the two are one model"):
        trainer(model, model, peft_config=LORA)
    wrapped = AutoModelForCausalLM.from_pretrained(model_folder)
    with pytest.raises(ValueError, match=r"the reference holds 4 parameters that the policy trains \(.*lora_A"):
        trainer(get_peft_model(wrapped, LORA), wrapped)


def test_a_first_step_that_changes_nothing(trainer: Any, model_folder: str) -> None:
    """None of the prompts holds the tokens that this adapter waits for."""
    waiting = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[3, 3, 3])
    with pytest.warns(UserWarning, match="invocation tokens"), pytest.raises(RuntimeError, match="no gradient reaches"):
        trainer(model_folder, peft_config=waiting).train()
    tiny = {"learning_rate": 1e-12, "optim": "sgd"}
    with pytest.raises(RuntimeError, match="round to nothing: raise learning_rate"):
        trainer(model_folder, changes=tiny).train()


def test_a_mask_that_is_dead_from_the_start(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    dead = Objective(zoo.sparsepo(), num_layers=2, hidden_size=32)
    with torch.no_grad():
        dead.weighting.mixer.fill_(-1)
    trainer = PreferenceTrainer(model_folder, objective=dead, args=config(out), train_dataset=rows)
    with pytest.raises(RuntimeError, match=r"changed no parameter .* starts alive with init near_one"):
        trainer.train()
    assert len([record for record in caplog.records if "the mask is dead" in record.getMessage()]) == 1
    metrics = trainer.evaluate(rows)
    assert metrics["eval_weights/all_zero"] == 1
    assert "eval_weights/entropy" not in metrics, "a mean of nothing"


@pytest.mark.slow
def test_warm_up_from_zero_is_waited_for(trainer: Any, model_folder: str) -> None:
    trainer(model_folder, changes={"warmup_steps": 2}).train()
    with pytest.raises(RuntimeError, match="the first step changed no parameter of the policy"):
        trainer(model_folder, changes={"warmup_steps": 2, "optim": "sgd", "learning_rate": 1e-12}).train()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8])
def test_a_checksum_changes_with_the_last_bit(dtype: torch.dtype) -> None:
    values = torch.full((3, 5), 3.0).to(dtype)
    changed = values.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], changed[1, 2] + 1) if dtype.is_floating_point else 4
    assert checksum(values) == checksum(values.clone())
    assert checksum(changed) != checksum(values)
