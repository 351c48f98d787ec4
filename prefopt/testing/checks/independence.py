"""Checks that a result depends on what it may depend on: not on padding, on other pairs, on how a batch is cut, or on
the device."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.component import Component, PreferenceLoss, Regularizer, RewardShaping, TokenWeighting, Units
from prefopt.testing.cases import case_for, cases
from prefopt.testing.check import check, raised_by
from prefopt.testing.trial import arguments, build, call, require, require_same, wherever_it_learns
from prefopt.tokens import TokenBatch


@check(TokenWeighting, RewardShaping, Units, PreferenceLoss, Regularizer)
@wherever_it_learns
def padding_changes_nothing(component: Component) -> None:
    """More columns of padding, with other rubbish in them, change no result.

    How far a response is padded depends on the others in its batch. `values * mask` is not enough: 0 times infinity
    is NaN. Use torch.where(mask, values, 0), masked_sum and masked_mean.
    """
    for case in cases(component):
        wider = case.widened(5)
        one, two = call(component, case), call(component, wider)
        if one.shape == case.mask.shape:
            one = torch.where(case.mask, one, 0)
            two = torch.where(case.mask, two[:, : one.shape[1]], 0)
        require_same(one, two, "a value", wider)


@check(TokenWeighting, Units, Regularizer)
@wherever_it_learns
def pairs_do_not_leak(component: Component) -> None:
    """What is said of one pair does not depend on what the other pairs say.

    A batch is a random draw. If pairs leak into each other, a pair's loss depends on its neighbours and no evaluation
    can be repeated. A loss that must couple pairs has `couples_pairs` for it.
    """
    case, other = case_for(component), case_for(component, 1)
    number = case.number
    for changed in range(number):
        rows = torch.arange(2 * number) % number == changed
        mixed = case.mixed(other, rows)
        one, two = call(component, case), call(component, mixed)
        per_token = len(one) == 2 * number
        keep = ~rows if per_token else ~rows[:number]
        require_same(one[keep], two[keep], "another pair's value", mixed)


@check(RewardShaping)
def responses_do_not_leak(component: RewardShaping) -> None:
    """The reward of one response does not depend on the token rewards of another, not even of its pair.

    The comparison of the two responses belongs to the preference loss alone; only so is the margin that is reported
    the one that is trained.
    """
    case, other = case_for(component), case_for(component, 1)
    for changed in range(2 * case.number):
        row = torch.arange(2 * case.number) == changed
        mixed = case.mixed(other, row)
        one, two = call(component, case), call(component, mixed)
        require_same(one[~row], two[~row], "another response's reward", mixed)


@check(TokenWeighting, RewardShaping, Units, Regularizer)
@wherever_it_learns
def cutting_the_batch_changes_nothing(component: Component) -> None:
    """The results on a batch cut into chunks of pairs are those on the whole.

    Gradient accumulation and several devices cut a batch; the training must not depend on how many there are.
    """
    case = case_for(component)
    whole = call(component, case)
    for cut in ([0], [1], [2], [0, 1], [1, 2]):
        rows = cut if len(whole) == case.number else [*cut, *(pair + case.number for pair in cut)]
        part = case.of_pairs(cut)
        result = call(component, part)
        require_same(result, whole[rows], "a value", part)


@check(Component)
def computes_where_its_inputs_are(component: Component) -> str:
    """On a device that is not the CPU it gives a result there, and takes no tensor of the CPU's to it.

    Written and tried on a CPU, torch.arange(T) or torch.tensor(0.5) ends the first step on an accelerator: write
    device=mask.device, or x.new_tensor(0.5), and keep constants in buffers. Tried on torch's meta device, which has
    shapes and no numbers; what depends on numbers, such as an index by a mask, cannot be tried there.
    """
    case = case_for(component).to(torch.float32)
    function = build(component, torch.float32)
    if isinstance(function, nn.Module):
        function.to("meta")
    try:
        result = function(*(_on_meta(value) for value in arguments(component, case)))
    except (RuntimeError, NotImplementedError) as error:
        if "device cpu" in str(error) or "same device" in str(error):
            raise raised_by(component, error, f"{case.words}, on the meta device") from error
        return "not tried: it depends on numbers"
    require(result.is_meta, f"its result is on {result.device}", f"{case.words}, on the meta device")
    return ""


def _on_meta(value: Any) -> Any:
    """A tensor or a batch on the meta device, and anything else as it is."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if not isinstance(value, TokenBatch):
        return value
    fields: dict[str, Any] = {
        name: field.to("meta") for name, field in vars(value).items() if isinstance(field, Tensor)
    }
    columns = {name: column.to("meta") for name, column in value.columns.items()}
    return dataclasses.replace(value, **fields | {"columns": columns})
