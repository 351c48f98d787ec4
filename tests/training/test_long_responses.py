"""Activations that are recomputed or offloaded: with shared rows, in the plan, and refused where they cannot be."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt import PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.forward import causal_lm
from prefopt.scoring.step_cost import Part, StepPlan, plan_step
from prefopt.training import PreferenceTrainer, plan_run
from prefopt.training.argument_trials import reject_unusable
from prefopt.training.plan import RunPlan, advice
from tests.training.test_trainer import config

LAYERS, HIDDEN = 4, 32
BATCH = PreferenceBatch.from_ids([[1] * 20] * 2, [[2, 5] * 9, [2] * 8], [[3] * 12, [3, 4] * 7], pad_token_id=0)
GIB = 2**30


def model() -> PreferenceModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    policy = LlamaForCausalLM(LlamaConfig(vocab_size=97, **sizes)).double()
    return PreferenceModel(policy, copy.deepcopy(policy), zoo.tdpo2()).train()


def gradients(whole: PreferenceModel) -> list[torch.Tensor]:
    whole(BATCH).loss.backward()
    assert whole.shares_prefix
    return [parameter.grad for parameter in whole.policy.parameters() if parameter.grad is not None]


@pytest.mark.slow
def test_recomputed_layers_change_no_number_and_are_planned() -> None:
    expected, kept = gradients(model()), plan_step(model(), BATCH).parts[0].bytes
    for every, at_most in ((1, 0.3), (2, 0.8)):
        whole = model()
        whole.activation_checkpointing_enable(every_n_layers=every)
        planned = plan_step(whole, BATCH).parts[0].bytes
        assert planned < at_most * kept
        for ours, theirs in zip(gradients(whole), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.slow
def test_offloaded_inputs_are_not_on_the_device() -> None:
    """Of the bytes that are planned the layers' inputs are gone."""
    whole, offloaded = model(), model()
    whole.activation_checkpointing_enable()
    offloaded.activation_checkpointing_enable(offload=True)
    layers = offloaded.policy.model.layers
    assert layers[0]._gradient_checkpointing_func.func is not checkpoint
    for layer in layers:
        layer._gradient_checkpointing_func = _Offloading()
    difference = plan_step(whole, BATCH).parts[0].bytes - plan_step(offloaded, BATCH).parts[0].bytes
    assert 0 < difference <= 2 * LAYERS * 2 * 40 * HIDDEN * 8
    assert difference % (LAYERS * HIDDEN * 8) == 0


@pytest.mark.parametrize("asked", [False, True])
def test_the_plan_of_a_run_has_its_checkpointing(asked: bool, model_folder: str, rows: list[Any], out: str) -> None:
    """The trainer turns it on when it trains, after the plan."""
    args = config(out, activation_checkpointing=asked)
    trainer = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)
    plan_run(trainer)
    assert causal_lm(trainer.model.policy).is_activation_checkpointing == asked


class _Offloading:
    """The checkpoint function of transformers under `offload`, for a machine without accelerator."""

    def func(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(*args, use_reentrant=False, **kwargs)

    __call__ = func


def planned(*, activations: int) -> RunPlan:
    step = StepPlan((Part("policy", 1.0, activations), Part("head", 1.0, GIB)))
    return RunPlan(pairs=2, longest=1024, weights=4 * GIB, gradients=GIB, optimizer=2 * GIB, step=step, passes=1)


def test_the_plan_says_what_an_accelerator_needs() -> None:
    policy = causal_lm(model().policy)
    plan = planned(activations=16 * GIB)  # 24 GiB with the rest; a layer's 4 GiB, inputs of next to nothing
    assert advice(plan, policy, 24 * GIB) == ""
    assert advice(plan, policy, 16 * GIB) == (
        "The step needs about 24.0 GiB, the device has 16.0: activation_checkpointing: true brings it to about 12.0."
    )
    assert "would bring it to 12.0, which is still too much; take fewer pairs" in advice(plan, policy, 8 * GIB)
    long = replace(plan, longest=8 * GIB // (LAYERS * HIDDEN * 8 * 2))  # inputs of 8 GiB
    assert "{offload: true} bring it to about 12.0." in advice(long, policy, 16 * GIB)
    policy.activation_checkpointing_enable()
    assert "{offload: true} bring it to about 16.0." in advice(long, policy, 20 * GIB)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_layers": 0}, "every_n_layers is 0; it takes a whole number from 1"),
        ({"every_n_layers": "2"}, "every_n_layers is '2'; it takes a whole number from 1"),
        ({"offload": True}, "there is no accelerator here; leave it out"),
        ({"offlaod": True}, "take every_n_layers, offload or keywords of torch"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, object], message: str, out: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    args = config(out)
    args.activation_checkpointing_kwargs = options
    with pytest.raises(ValueError, match=message):
        reject_unusable(args)
    args.activation_checkpointing_kwargs = {"every_n_layers": 2, "use_reentrant": False}
    reject_unusable(args)
