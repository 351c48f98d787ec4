"""What transformers' Trainer offers, on PreferenceTrainer: it works as there, or is refused before training."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    EvalPrediction,
    GenerationConfig,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainingArguments,
    hyperparameter_search,
)
from transformers.trainer_utils import BestRun, HPSearchBackend

from prefopt import Objective, zoo
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import config

SIDES = ("chosen", "rejected")
PREDICTIONS = {f"{name}/{side}" for name in ("rewards", "logps") for side in SIDES}


@pytest.fixture
def made(model_folder: str, rows: list[dict[str, str]], out: str) -> Any:
    def make(**changes: Any) -> PreferenceTrainer:
        args = config(out, **{"max_steps": 1, **changes.pop("args", {})})
        data = {"train_dataset": rows[:24], "eval_dataset": rows[24:], "objective": zoo.dpo()}
        model = () if "model_init" in changes else (model_folder,)
        return PreferenceTrainer(*model, args=args, **data | changes)

    return make


@pytest.fixture
def policy(model_folder: str) -> Any:
    return lambda: AutoModelForCausalLM.from_pretrained(model_folder)


def test_compute_metrics_gets_rewards_and_logps_of_each_pair(made: Any) -> None:
    seen: list[EvalPrediction] = []

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        margins = prediction.predictions["rewards/chosen"] - prediction.predictions["rewards/rejected"]
        return {"won": float((margins > 0).mean()), "margin": float(margins.mean())}

    args = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 2, "per_device_eval_batch_size": 3}
    metric = {"load_best_model_at_end": True, "metric_for_best_model": "won", "save_strategy": "steps", "save_steps": 2}
    trainer = made(compute_metrics=metrics, args=args | metric)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "eval_won" in entry)
    assert logged["eval_won"] == pytest.approx(logged["eval_rewards/accuracies"]) == trainer.state.best_metric
    assert logged["eval_margin"] == pytest.approx(logged["eval_rewards/margins"], abs=1e-6)
    (prediction,) = seen
    assert set(prediction.predictions) == PREDICTIONS
    assert {values.shape for values in prediction.predictions.values()} == {(8,)}
    assert prediction.label_ids.tolist() == list(range(8))
    for name in PREDICTIONS:
        assert prediction.predictions[name].mean() == pytest.approx(logged[f"eval_{name}"], abs=1e-4)
    assert prediction.losses is None


@pytest.mark.long
def test_what_is_included_for_metrics(made: Any) -> None:
    seen: list[EvalPrediction] = []

    def metrics(prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        seen.append(prediction)
        return {"batches": float(len(seen))} if compute_result else {}

    args = {"per_device_eval_batch_size": 4, "include_for_metrics": ["loss"], "eval_do_concat_batches": False}
    trainer = made(compute_metrics=metrics, args=args | {"eval_accumulation_steps": 1})
    trainer.evaluate()
    assert len(seen[0].losses) == 2
    assert [label.tolist() for label in seen[0].label_ids] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    seen.clear()
    trainer.args.batch_eval_metrics = True
    assert trainer.evaluate()["eval_batches"] == 2


def test_logits_are_preprocessed_before_they_are_gathered(made: Any) -> None:
    def margins(predictions: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        assert labels.shape == predictions["logps/chosen"].shape
        return predictions["logps/chosen"] - predictions["logps/rejected"]

    shapes: list[tuple[int, ...]] = []

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        shapes.append(prediction.predictions.shape)
        return {}

    made(compute_metrics=metrics, preprocess_logits_for_metrics=margins).evaluate()
    assert shapes == [(8,)]


def test_a_metric_named_as_one_of_the_objectives(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer = made(compute_metrics=lambda _: {"rewards/margins": -7.0})
    assert trainer.evaluate()["eval_rewards/margins"] == -7.0
    assert "eval_rewards/margins is what compute_metrics gives, in place of the objective's" in caplog.text


def test_predict_gives_each_pair(made: Any, rows: list[dict[str, str]]) -> None:
    predicted = made(args={"per_device_eval_batch_size": 3}).predict(rows[:7])
    assert set(predicted.predictions) == PREDICTIONS
    assert predicted.label_ids.tolist() == list(range(7))
    assert np.mean(predicted.predictions["logps/chosen"]) == pytest.approx(predicted.metrics["test_logps/chosen"], 1e-5)
    alone = made(args={"prediction_loss_only": True}).predict(rows[:7])
    assert alone.predictions is None
    kept = made().predict(rows[:7], ignore_keys=["logps/chosen", "logps/rejected"])
    assert set(kept.predictions) == {"rewards/chosen", "rewards/rejected"}


@pytest.mark.long
def test_several_evaluation_sets(made: Any, rows: list[dict[str, str]]) -> None:
    trainer = made(
        eval_dataset={"one": rows[24:], "two": rows[20:28]}, compute_metrics=lambda p: {"pairs": len(p.label_ids)}
    )
    metrics = trainer.evaluate()
    assert (metrics["eval_one_pairs"], metrics["eval_two_pairs"]) == (8, 8)
    assert metrics["eval_one_loss"] == pytest.approx(trainer.evaluate("one")["eval_loss"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"args": {"prediction_loss_only": True}, "compute_metrics": dict}, "prediction_loss_only keeps none; leave"),
        ({"compute_loss_func": print}, "compute_loss_func: the loss is the objective's; write it as a preference loss"),
        ({"processing_class": SimpleNamespace(tokenizer=1)}, "found SimpleNamespace, and pairs are text; give its tok"),
        ({"optimizer_cls_and_kwargs": (torch.optim.SGD, {"rate": 1})}, "makes no optimizer .TypeError: .* such as"),
        ({"optimizer_cls_and_kwargs": torch.optim.SGD}, "optimizer_cls_and_kwargs makes no optimizer"),
        ({"model_init": print, "model": "m"}, "model and model_init both say what the policy is; give one of them"),
        (
            {"args": {"include_for_metrics": ["inputs"]}},
            "include_for_metrics is refused: .*in label_ids",
        ),
        ({"eval_dataset": {"a/b": []}}, "'a/b' cannot name a data set"),
        ({"args": {"label_smoothing_factor": 0.1}}, "Use the objective cdpo"),
        ({"args": {"neftune_noise_alpha": 5.0}}, "neftune_noise_alpha is refused: noise on"),
        (
            {"args": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"reentrant": 1}}},
            "use_reentrant",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_what_is_refused_before_training(changes: dict[str, Any], error: str, made: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        made(**changes)


def test_arguments_of_another_trainer(rows: list[dict[str, str]], out: str) -> None:
    with pytest.raises(TypeError, match="args: found TrainingArguments; give a PreferenceConfig"):
        PreferenceTrainer("m", objective=zoo.dpo(), args=TrainingArguments(out), train_dataset=rows)  # type: ignore[arg-type]


def test_neither_a_model_nor_a_function_that_returns_one(rows: list[dict[str, str]], out: str) -> None:
    with pytest.raises(ValueError, match=r"^model: none was given; give a model or its name, or model_init$"):
        PreferenceTrainer(objective=zoo.dpo(), args=config(out), train_dataset=rows)


def test_metrics_that_are_written_for_logits_get_a_note_of_what_there_is(made: Any) -> None:
    with pytest.raises(TypeError) as caught:
        made(compute_metrics=lambda prediction: prediction.predictions[:1]).evaluate()
    (note,) = caught.value.__notes__
    assert "a mapping here, of arrays of one number a pair: rewards/chosen, rewards/rejected" in note


def test_what_only_compute_metrics_would_read(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    made(args={"include_for_metrics": ["loss"], "batch_eval_metrics": True})
    assert "include_for_metrics has no effect: it is read with compute_metrics" in caplog.text
    assert "batch_eval_metrics has no effect: it is read with compute_metrics" in caplog.text


def test_an_optimizer_of_its_class_and_keywords(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    options = {"lr": 0.25, "momentum": 0.5}
    trainer = made(
        objective=zoo.build({"zoo": "sparsepo", "weighting": {"init": "near_one", "position": "token"}}),
        optimizer_cls_and_kwargs=(torch.optim.SGD, options),
        args={"mask_learning_rate": 0.125, "lr_scheduler_type": "constant"},
    )
    assert "optimizer_cls_and_kwargs: its keywords stand in place of learning_rate" in caplog.text
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {0.25, 0.125}
    assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.5}


@pytest.mark.long
def test_an_optimizer_and_a_schedule_of_ones_own(made: Any, policy: Any) -> None:
    model = policy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    trainer = PreferenceTrainer(
        model,
        objective=zoo.dpo(),
        args=made().args,
        train_dataset=made().train_dataset,
        processing_class=made().processing_class,
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == 0.25


def test_callbacks_find_the_model_and_generate_with_it(made: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    texts: list[str] = []

    class Generate(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, processing_class: Any, **_: Any) -> None:
            ids = processing_class(["the film"], return_tensors="pt", return_token_type_ids=False)
            settings = GenerationConfig(max_new_tokens=3, do_sample=False)
            with torch.no_grad():
                same = [lm.generate(**ids, generation_config=settings).tolist() for lm in (model, model.policy)]
            assert same[0] == same[1]
            texts.append(processing_class.decode(same[0][0]))

    made(callbacks=[Generate()]).train()
    assert texts[0].startswith("the film")


@pytest.mark.parametrize("adapted", [pytest.param(False, marks=pytest.mark.long), True])
def test_model_init_makes_the_policy_for_each_training(adapted: bool, made: Any, policy: Any) -> None:
    calls: list[object] = []

    def init(trial: object) -> Any:
        calls.append(trial)
        return policy()

    peft_config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]) if adapted else None
    trainer = made(model_init=init, peft_config=peft_config, args={"max_steps": 2})
    losses, weights = [], []
    for _ in range(2):
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        weights.append([p.detach().clone() for p in trainer.model.policy.parameters() if p.requires_grad])
    assert calls == [None] * 3
    assert losses[0] == losses[1]
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    plain = made(peft_config=peft_config, args={"max_steps": 2, "overwrite_output_dir": True})
    plain.train()
    assert [entry["loss"] for entry in plain.state.log_history if "loss" in entry] == losses[0]


@pytest.mark.long
def test_a_mask_and_a_reference_that_follows_begin_as_they_were(made: Any, policy: Any) -> None:
    config = zoo.build({"zoo": "sparsepo", "weighting": {"init": "near_one", "position": "token"}})
    mask = Objective(config, num_layers=2, hidden_size=32)
    before = [p.detach().clone() for p in mask.parameters()]
    args = {"max_steps": 2, "sync_ref_model": True, "ref_model_sync_steps": 1}
    trainer = made(model_init=policy, ref_model=policy(), objective=mask, args=args)
    losses = []
    for _ in range(2):
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(before, mask.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.model.objective.parameters(), strict=True))


class Grid:
    """A backend of transformers' interface that tries two learning rates."""

    trials: tuple[dict[str, Any], ...] = ({"learning_rate": 0.0}, {"learning_rate": 1e-2})
    default_hp_space = None

    def ensure_available(self) -> None:
        pass

    def run(self, trainer: Any, n_trials: int, direction: str, **_: Any) -> BestRun:
        values = []
        for trial in self.trials[:n_trials]:
            trainer.objective = None
            trainer.train(trial=dict(trial))
            if trainer.objective is None:
                trainer.objective = trainer.compute_objective(trainer.evaluate())
            values.append(trainer.objective)
            trainer.model = trainer.model_wrapped = None  # as the backends free their memory
        best = min(range(len(values)), key=values.__getitem__)
        return BestRun(str(best), values[best], self.trials[best])


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> type[Grid]:
    backends = hyperparameter_search.ALL_HYPERPARAMETER_SEARCH_BACKENDS
    monkeypatch.setitem(backends, HPSearchBackend.WANDB, Grid)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: True)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=SimpleNamespace(id="0")))
    return Grid


def test_hyperparameter_search_by_the_evaluation_loss(made: Any, policy: Any, grid: type[Grid]) -> None:
    trainer = made(model_init=policy, args={"max_steps": 3})
    best = trainer.hyperparameter_search(n_trials=2, backend="wandb")
    assert (best.run_id, best.hyperparameters) == ("1", {"learning_rate": 1e-2})
    assert 0 < best.objective < 0.69
    trainer.args.metric_for_best_model = "rewards/margins"
    assert trainer.hyperparameter_search(n_trials=1, backend="wandb").objective == 0


@pytest.mark.parametrize(
    ("trial", "error"),
    [
        ({"beta": 0.5}, "hp_space: 'beta' is no training argument, and nothing would read it; fields of the objective"),
        ({"max_length": 8}, "hp_space: max_length is read before a trial begins"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_hyperparameters_that_nothing_would_read(
    trial: dict[str, Any], error: str, made: Any, policy: Any, grid: type[Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "trials", (trial,))
    with pytest.raises(ValueError, match=error):
        made(model_init=policy).hyperparameter_search(n_trials=1, backend="wandb")


def test_trials_of_an_earlier_search_are_kept(made: Any, policy: Any, grid: type[Grid], out: str) -> None:
    Path(out, "run-0", "checkpoint-1").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds trials of a search already"):
        made(model_init=policy).hyperparameter_search(n_trials=1, backend="wandb")


def test_hyperparameter_search_with_optuna(made: Any, policy: Any) -> None:
    pytest.importorskip("optuna", reason="optuna, the backend of this search, is not installed")
    trainer = made(model_init=policy, args={"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"})
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)}, n_trials=2, backend="optuna"
    )
    assert 1e-3 <= best.hyperparameters["learning_rate"] <= 1e-2
