"""PreferenceTrainer as TRL's users would use it."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback

from prefopt import Objective, PreferenceBatch, zoo
from prefopt.data import DataError
from prefopt.scoring import PreferenceModel
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.weightings import SparseWeighting

NEAR_ONE = {"weighting": {"init": "near_one", "position": "token"}}


def config(out: str, **changes: Any) -> PreferenceConfig:
    """Four steps of eight pairs, quiet."""
    fields: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
    }
    return PreferenceConfig(out, **fields | changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_row_of_the_zoo_trains(name: str, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    numbers = {"score_chosen": 2.5, "score_rejected": 1.0, "gap_reasoning": 0.5, "gap_answer": 1.5}
    tokens = {f"{side}_{name}": [] for side in ("chosen", "rejected") for name in ("weights", "part")}
    spans = {
        f"{side}_{name}": [{"start": 0, "end": 2}] for side in ("chosen", "rejected") for name in ("segment", "score")
    }
    spans |= {f"{side}_token_rewards": [{"start": 0, "end": 2, "value": -0.25}] for side in ("chosen", "rejected")}
    scored = [row | numbers | tokens | spans for row in rows]
    trainer = PreferenceTrainer(model_folder, objective=zoo.ZOO[name](), args=config(out), train_dataset=scored)
    before = [p.detach().clone() for p in trainer.model.policy.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.policy.parameters(), strict=True))
    if trainer.model.reference is not None:
        assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.reference.parameters(), strict=True))
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize("name", ["dpo", "sparsepo"])
def test_the_loss_falls(name: str, model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    objective = zoo.build({"zoo": name, **(NEAR_ONE if name == "sparsepo" else {})})
    trainer = PreferenceTrainer(model_folder, objective=objective, args=config(out, max_steps=8), train_dataset=rows)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < 0.6 < logs[0]["loss"]
    assert logs[-1]["rewards/accuracies"] > 0.8


@pytest.mark.slow
def test_one_by_eight_and_eight_by_one_give_the_same_gradient(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    class Keep(TrainerCallback):
        def __init__(self) -> None:
            self.gradients: list[torch.Tensor] = []

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            self.gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]

    runs = []
    for batch, accumulation in ((8, 1), (1, 8), (3, 3)):
        keep = Keep()
        args = config(
            out,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            max_grad_norm=0.0,
        )
        trainer = PreferenceTrainer(
            model_folder,
            objective=zoo.build({"zoo": "sparsepo", **NEAR_ONE}),
            args=args,
            train_dataset=rows[:8],
            callbacks=[keep],
        )
        with torch.no_grad():  # off the reference, so that the mask has a gradient too
            for parameter in trainer.model.policy.parameters():
                parameter.add_(0.05)
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(trainer.state.log_history[-1]["train_loss"])
        runs.append((trainer.state.log_history[0], keep.gradients))
    whole = runs[0]
    for logs, gradients in runs[1:]:
        for one, other in zip(gradients, whole[1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
        for name in ("loss", "rewards/margins", "weights/mean", "logps/chosen", "divergence/rejected"):
            assert logs[name] == pytest.approx(whole[0][name], rel=1e-4)


def test_evaluation_metrics_are_means_over_pairs(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(out, per_device_eval_batch_size=3)
    trainer = PreferenceTrainer(
        model_folder, objective=zoo.tdpo2(), args=args, train_dataset=rows, eval_dataset=rows[:7]
    )
    trainer.train()
    metrics = trainer.evaluate()
    batch = PreferenceBatch.from_mapping(trainer.data_collator([trainer.eval_dataset[i] for i in range(7)]))
    with torch.no_grad():
        output = trainer.model(batch)
    assert metrics["eval_loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    for name, mean in ((name, mean) for name, mean in output.metrics.items() if mean.number):
        assert metrics[f"eval_{name}"] == pytest.approx(mean.value, rel=1e-4, abs=1e-6), name


def test_several_evaluation_sets_keep_their_metrics_apart(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    trainer = PreferenceTrainer(
        model_folder,
        objective=zoo.dpo(),
        args=config(out),
        train_dataset=rows,
        eval_dataset={"short": rows[:4], "other": rows[4:16]},
    )
    metrics = trainer.evaluate()
    assert {"eval_short_rewards/margins", "eval_other_rewards/margins"} <= set(metrics)
    assert metrics["eval_short_logps/chosen"] != metrics["eval_other_logps/chosen"]


def test_the_mask_has_parameter_groups_of_its_own(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(out, mask_learning_rate=0.5, mask_weight_decay=0.25, weight_decay=0.1)
    trainer = PreferenceTrainer(model_folder, objective=zoo.sparsepo(shared=False), args=args, train_dataset=rows)
    optimizer = trainer.create_optimizer()
    groups = {
        frozenset(name for name, p in trainer.model.named_parameters() if any(p is q for q in group["params"])): group
        for group in optimizer.param_groups
    }
    masks = {names: group for names, group in groups.items() if any(name.startswith("objective.") for name in names)}
    assert {group["lr"] for group in masks.values()} == {0.5}
    decays = {name: group["weight_decay"] for names, group in masks.items() for name in names}
    assert set(decays) == {n for n, p in trainer.model.named_parameters() if n.startswith("objective.")}
    for name, decay in decays.items():
        assert decay == (0.0 if "norm" in name or name.endswith("bias") else 0.25), name
    policy = [group for names, group in groups.items() if names not in masks]
    assert {(group["lr"], group["weight_decay"]) for group in policy} <= {(1e-2, 0.1), (1e-2, 0.0)}
    optimized = {name for names in groups for name in names}
    assert not any(name.startswith("reference_scorer.") for name in optimized)


def test_step_0_is_ln_2_and_the_log_says_so(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = PreferenceTrainer(model_folder, objective=zoo.tdpo1(), args=config(out), train_dataset=rows)
    with caplog.at_level(logging.INFO, logger="prefopt"):
        trainer.train()
    assert "step 0: loss 0.693147, as expected" in caplog.text
    assert "comparing the fast path with plain calls of the model, once, on rows of up to" in caplog.text
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_step_0_says_why_where_the_reference_is_another_model(
    model_folder: str, rows: list[dict[str, str]], out: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        other.lm_head.weight.mul_(3)
    trainer = PreferenceTrainer(model_folder, other, objective=zoo.dpo(), args=config(out), train_dataset=rows)
    trainer.train()
    assert "where the policy is the reference. The two differ by up to" in caplog.text


@pytest.mark.slow
def test_an_adapter_trains_with_its_mask_and_both_are_saved(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    trainer = PreferenceTrainer(
        model_folder,
        objective=zoo.build({"zoo": "sparsepo", **NEAR_ONE}),
        args=config(out, max_steps=6),
        train_dataset=rows,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.1),
    )
    base = {n: p.detach().clone() for n, p in trainer.model.policy.named_parameters() if "lora" not in n}
    mask = [p.detach().clone() for p in trainer.model.objective.parameters()]
    trainer.train()
    trainer.save_model()
    for name, parameter in trainer.model.policy.named_parameters():
        if name in base:
            assert torch.equal(parameter, base[name]), name
    assert any(not torch.equal(a, b) for a, b in zip(mask, trainer.model.objective.parameters(), strict=True))
    assert not (Path(out) / "model.safetensors").exists()
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), out)
    saved = dict(again.named_parameters())
    trained = {n: p for n, p in trainer.model.policy.named_parameters() if "lora" in n}
    assert trained
    assert all(torch.equal(saved[name], parameter) for name, parameter in trained.items())
    reloaded = Objective.load(out)
    for one, other in zip(reloaded.parameters(), trainer.model.objective.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_saved_is_a_plain_model(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    trainer = PreferenceTrainer(model_folder, objective=zoo.mapo(), args=config(out), train_dataset=rows)
    trainer.train()
    trainer.save_model()
    again = AutoModelForCausalLM.from_pretrained(out)
    for one, other in zip(again.parameters(), trainer.model.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    assert Objective.load(out).config == zoo.mapo()
    assert not (Path(out) / "objective.safetensors").exists()


def test_bad_rows_stop_before_training_and_quarantine_goes_on(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    spoilt = [*rows, {"prompt": "the", "chosen": " good", "rejected": " good"}]
    with pytest.raises(DataError, match="row 32 of train"):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=config(out), train_dataset=spoilt)
    trainer = PreferenceTrainer(
        model_folder, objective=zoo.dpo(), args=config(out, on_bad_rows="quarantine"), train_dataset=spoilt
    )
    assert trainer.data_reports["train"].quarantined == 1
    assert "row 32" in (Path(out) / "quarantine-train.jsonl").read_text()
    assert len(trainer.train_dataset) == 32


def test_a_number_that_is_not_finite_stops_the_run_and_names_the_row(
    model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    trainer = PreferenceTrainer(model, objective=zoo.dpo(), args=config(out), train_dataset=rows[:8])
    with torch.no_grad():
        trainer.model.policy.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"^step 1, row \d of train: `logps` is nan for the chosen"):
        trainer.train()


@pytest.mark.slow
def test_activation_checkpointing_changes_nothing(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    losses = []
    for checkpointing in (False, True):
        args = config(out, activation_checkpointing=checkpointing)
        trainer = PreferenceTrainer(model_folder, objective=zoo.tdpo2(), args=args, train_dataset=rows)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_bf16_autocast_trains_and_starts_at_ln_2(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    objective = zoo.build({"zoo": "sparsepo", "l1_reward": 0.0, "l1_divergence": 0.0, **NEAR_ONE})
    trainer = PreferenceTrainer(model_folder, objective=objective, args=config(out, bf16=True), train_dataset=rows)
    trainer.train()
    assert not trainer.model.uses_plain_forward
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]


def test_weight_histograms_reach_tensorboard(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = config(out, report_to="tensorboard")
    trainer = PreferenceTrainer(model_folder, objective=zoo.sparsepo(shared=False), args=args, train_dataset=rows)
    trainer.train()
    (events,) = Path(out).rglob("events.out.tfevents*")
    read = EventAccumulator(str(events)).Reload()
    assert set(read.Tags()["histograms"]) == {"train/weights", "train/divergence_weights"}
    assert {"train/rewards/margins", "train/weights/sparsity", "train/beta/effective"} <= set(read.Tags()["scalars"])


def test_a_loaded_objective_goes_on_with_its_mask(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    first = Objective(zoo.sparsepo(), num_layers=2, hidden_size=32)
    trainer = PreferenceTrainer(model_folder, objective=first, args=config(out), train_dataset=rows)
    assert isinstance(trainer.model, PreferenceModel)
    assert trainer.model.objective is first
    assert isinstance(first.config.weighting, SparseWeighting)
