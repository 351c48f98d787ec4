"""A step whose numbers are not finite is left out without a trace, or stops the run; judging it reads one number."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from prefopt import zoo
from prefopt.component import RewardShaping
from prefopt.scoring import NonFiniteError
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.training.finite_steps import NonFiniteGradientError
from prefopt.training.random_states import RandomStates, drawing_from
from tests.training.test_trainer import NEAR_ONE, config

Make = Callable[..., PreferenceTrainer]


@pytest.fixture
def trainer(model_folder: str, rows: list[dict[str, str]], out: str) -> Make:
    def make(objective: Any = None, evaluation: Any = None, **changes: Any) -> PreferenceTrainer:
        data = {"train_dataset": rows, "eval_dataset": evaluation}
        return PreferenceTrainer(model_folder, objective=objective or zoo.dpo(), args=config(out, **changes), **data)

    return make


class Spoil(TrainerCallback):
    """Makes the logits of all tokens NaN in some steps, counted from 1."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.weight = model.policy.lm_head.weight
        self.kept = self.weight.detach().clone()
        if state.global_step + 1 in self.steps:
            self.weight.data[3] = math.nan

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 in self.steps:
            self.weight.data.copy_(self.kept)


class Weights(TrainerCallback):
    """The weights and the rate after each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, lr_scheduler: Any, **_: Any) -> None:
        self.weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        self.rates.append(lr_scheduler.get_last_lr()[0])


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accumulation"), [("dpo", 2), ("bco", 1), ("sparsepo", 2)])
def test_a_step_that_is_left_out_changes_nothing(
    trainer: Make, caplog: pytest.LogCaptureFixture, name: str, accumulation: int
) -> None:
    objective = zoo.build({"zoo": name, **(NEAR_ONE if name == "sparsepo" else {})})
    accumulated = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    run = trainer(objective, max_skipped_steps=1, max_steps=5, logging_steps=5, weight_decay=0.1, **accumulated)
    weights = Weights()
    run.add_callback(Spoil(2, 4))
    run.add_callback(weights)
    output = run.train()
    after = weights.weights
    assert [same(after[step], after[step + 1]) for step in range(4)] == [True, False, True, False]
    assert weights.rates[0] == weights.rates[1] > weights.rates[2] == weights.rates[3] > weights.rates[4]
    (entry,) = [entry for entry in run.state.log_history if "loss" in entry]
    assert entry["skipped_steps"] == 2
    assert all(math.isfinite(value) for value in entry.values())
    assert output.training_loss == pytest.approx(entry["loss"])
    assert 0.2 < entry["loss"] < 2
    assert entry["lengths/chosen"] > 1
    lines = [record.message for record in caplog.records if "left out" in record.message]
    assert len(lines) == 2
    assert lines[0].startswith("step 2, row ")
    assert "`logps` is nan for the chosen response of pair" in lines[0]
    assert lines[0].endswith("; the step is left out, 1 of at most 1 in a row")


@pytest.mark.slow
def test_more_than_that_in_a_row_stop(trainer: Make) -> None:
    run = trainer(max_skipped_steps=2, max_steps=8, logging_steps=1)
    run.add_callback(Spoil(2, 4, 5, 6))
    with pytest.raises(NonFiniteError, match=r"^step 6, row .*; .* 2 steps in a row were left out before"):
        run.train()
    logs = [entry for entry in run.state.log_history if "skipped_steps" in entry]
    assert [entry["skipped_steps"] for entry in logs] == [0, 1, 0, 1, 1]
    assert ["loss" in entry for entry in logs] == [True, False, True, False, False]


def test_a_run_of_which_no_step_was_taken_is_an_error(trainer: Make) -> None:
    run = trainer(max_skipped_steps=9, max_steps=2)
    run.add_callback(Spoil(1, 2))
    with pytest.raises(FloatingPointError, match="none of 2 steps was taken"):
        run.train()


def test_the_token_is_named_with_its_text(trainer: Make) -> None:
    run = trainer()
    run.add_callback(Spoil(1))
    with pytest.raises(NonFiniteError, match=r"^step 1, row \d+ of train: `logps` .* at its token 0 \(id \d+, '\w+'\)"):
        run.train()


class Steep(RewardShaping, frozen=True):
    """Rewards that are infinite, whose loss is 0."""

    name: str = "steep"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        return rewards.sum(-1) * 0 + torch.where(is_chosen, math.inf, -math.inf)


def test_a_reward_that_is_infinite_stops_though_the_loss_is_finite(trainer: Make) -> None:
    objective = zoo.dpo().model_copy(update={"shaping": Steep.model_construct()})
    with pytest.raises(NonFiniteError, match="`rewards` is inf for the chosen response of pair"):
        trainer(objective).train()


def test_gradients_that_are_finite_but_for_their_norm(trainer: Make) -> None:
    run = trainer(max_grad_norm=0.0)
    weight = run.model.policy.lm_head.weight
    weight.register_hook(lambda gradient: gradient * 0 + 1e30)
    with pytest.raises(
        NonFiniteGradientError,
        match=r"is inf \(each pair's own is finite: 1e\+30 at most, in policy\.lm_head\.weight, pair",
    ):
        run.train()


class Reads(TorchDispatchMode):
    """Counts reads of numbers from the device: of one, and of a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        to_list = Tensor.tolist
        monkeypatch.setattr(Tensor, "tolist", lambda values: [self.add(), to_list(values)][1])

    def add(self) -> None:
        self.count += 1

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))

    def counted(self, function: Callable[[Any], Any], counts: list[int]) -> Callable[[Any], Any]:
        """The function, which adds its reads to the list."""

        def call(argument: Any) -> Any:
            before = self.count
            value = function(argument)
            counts.append(self.count - before)
            return value

        return call


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 3])
def test_judging_a_step_reads_once(trainer: Make, accumulation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of one read a batch, or two where its pairs share a row."""
    run = trainer(gradient_accumulation_steps=accumulation, per_device_train_batch_size=2, logging_steps=100)
    scored: list[int] = []
    judged: list[int] = []
    forward = run.model.forward
    with Reads(monkeypatch) as reads:
        monkeypatch.setattr(run.model, "forward", reads.counted(forward, scored))
        monkeypatch.setattr(run._guard, "judge", reads.counted(run._guard.judge, judged))
        run.train()
        run.model.raises_non_finite = True
        raising: list[int] = []
        reads.counted(forward, raising)(run._guard._batches[-1])
    assert judged == [1] * 4
    assert len(scored) == 4 * accumulation
    assert scored[-1] == raising[0] - 1


@pytest.fixture
def states() -> Iterator[RandomStates]:
    before = RandomStates.now()
    yield before
    before.put_back()


def test_random_states_are_put_back(states: RandomStates) -> None:
    def draws() -> tuple[float, ...]:
        import random

        import numpy as np

        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with drawing_from(states):
        first = draws()
    assert draws() == first
    again = RandomStates.from_parts(states.tensors(), states.plain())
    with drawing_from(again):
        assert draws() == first
    assert draws() != first


def test_a_negative_number_of_skipped_steps_is_refused(out: str) -> None:
    with pytest.raises(ValueError, match="max_skipped_steps: -1 is out of range"):
        PreferenceConfig(out, max_skipped_steps=-1)


def test_a_metric_that_is_not_finite_is_never_the_best(
    trainer: Make,
    rows: list[dict[str, str]],
    out: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "save_steps": 1, "max_steps": 2}
    run = trainer(None, rows[:8], metric_for_best_model="rewards/margins", greater_is_better=False, **changes)
    evaluate = run.evaluate
    monkeypatch.setattr(run, "evaluate", lambda *a, **k: evaluate(*a, **k) | {"eval_rewards/margins": -math.inf})
    run.train()
    assert run.state.best_metric is None
    assert not list(Path(out).glob("checkpoint-*"))
    with caplog.at_level(logging.WARNING):
        assert "evaluation after step 1: eval_rewards/margins is -inf, and so not the best" in caplog.text
