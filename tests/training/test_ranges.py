"""Values without sense are refused when the run file is read, in one line that names them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prefopt import ObjectiveConfig
from prefopt.training import PreferenceConfig, RunFile, RunFileError
from prefopt.training.trainer_inputs import lora_config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", -1e-6),
        ("mask_learning_rate", math.inf),
        ("weight_decay", -0.1),
        ("max_grad_norm", math.nan),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", -2),
        ("gradient_accumulation_steps", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("data_seed", -1),
        ("logits_budget_mb", -5),
        ("save_total_limit", 0),
        ("adam_beta1", 1.0),
        ("max_steps", 0),
        ("max_steps", -3),
        ("num_train_epochs", 0),
        ("num_train_epochs", math.inf),
        ("num_train_epochs", 1e20),
        ("max_steps", 10**30),
        ("per_device_train_batch_size", 10**400),
    ],
)
def test_arguments_out_of_their_range(name: str, value: float) -> None:
    run = RunFile(model="m", data="d", objective="dpo", training={name: value})
    with pytest.raises(RunFileError, match=f"training: {name}: ") as caught:
        run.preference_config()
    assert len(str(caught.value).splitlines()) == 1


def test_reports_go_to_what_transformers_knows() -> None:
    run = RunFile(model="m", data="d", objective="dpo", training={"report_to": "tensorbord"})
    with pytest.raises(RunFileError, match=r"report_to: 'tensorbord' is none of .* Did you mean 'tensorboard'\?"):
        run.preference_config()


def test_arguments_at_the_ends_of_their_range() -> None:
    training = {"learning_rate": 0.0, "max_steps": 1, "num_train_epochs": 0, "seed": 0, "logits_budget_mb": 1}
    assert RunFile(model="m", data="d", objective="dpo", training=training).preference_config().seed == 0


@pytest.mark.parametrize("value", [math.inf, math.nan, True, 0, -1.0])
def test_beta_is_a_positive_finite_number(value: Any) -> None:
    with pytest.raises(ValueError, match="beta"):
        ObjectiveConfig(beta=value)


@pytest.mark.parametrize("rank", [0, -1, 0.5])
def test_a_rank_is_positive(rank: Any) -> None:
    with pytest.raises(ValueError, match="is no rank"):
        lora_config({"r": rank})


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "a\x1b[31mb"])
def test_a_folder_has_a_name_that_prints(name: str) -> None:
    with pytest.raises(ValueError, match=r"output_dir: 'a\\.* a character that does not print"):
        PreferenceConfig(name, report_to="none")


def test_evaluation_needs_data() -> None:
    training = {"eval_strategy": "steps"}
    with pytest.raises(ValueError, match=r"name it as data\.eval"):
        RunFile(model="m", data="d", objective="dpo", training=training)
    RunFile(model="m", data={"train": "d", "eval": "e"}, objective="dpo", training=training)
