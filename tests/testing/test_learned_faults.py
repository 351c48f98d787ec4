"""Faults of what learns that its start hides, since it multiplies by zero, and those of what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from prefopt.component import Signal, TokenWeighting
from prefopt.testing import CHECKS
from prefopt.testing.check import ConformanceError
from prefopt.tokens import TokenBatch

Read = Callable[[TokenBatch], Tensor]


def after_position(tokens: TokenBatch) -> Tensor:
    """t / T of the response, [N, T]."""
    steps = tokens.logps.new_tensor(range(tokens.mask.shape[1]))
    return steps / tokens.mask.sum(-1, keepdim=True).clamp(min=1)


def after_padded_width(tokens: TokenBatch) -> Tensor:
    width = tokens.mask.shape[1]
    return (tokens.logps.new_tensor(range(width)) / width).expand(tokens.mask.shape)


def after_other_pairs(tokens: TokenBatch) -> Tensor:
    values = torch.where(tokens.mask, tokens.ref_logps, 0)
    return values - values.sum() / tokens.mask.sum()


def after_the_policy(tokens: TokenBatch) -> Tensor:
    return torch.where(tokens.mask, tokens.logps, 0)


def in_double(tokens: TokenBatch) -> Tensor:
    return after_position(tokens).double()


class Gate(nn.Module):
    def __init__(self, read: Read, link: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read, self.link = read, link
        self.slope = nn.Parameter(torch.zeros(()))
        self.level = nn.Parameter(torch.tensor(2.0))

    def forward(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, self.link(self.slope * self.read(tokens) + self.level), 0)


class LooseGate(Gate):
    def __init__(self, read: Read, link: Callable[[Tensor], Tensor]) -> None:
        super().__init__(read, link)
        self.scale = torch.ones((), requires_grad=True)


class GateWeighting(TokenWeighting):
    """w_t = link(a x_t + b), with a = 0 at the start.

    Source: these tests.
    """

    name: Literal["gate"] = "gate"
    read: Any = after_position
    link: Any = torch.sigmoid
    made: Any = Gate

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({Signal.REF_LOGPS})

    def build(self, *, num_layers: int, hidden_size: int) -> Gate:
        return self.made(self.read, self.link)


def in_float64(*arguments: Any) -> Gate:
    return Gate(*arguments).double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "failing", "fault"),
    [
        ({}, "", ""),
        ({"link": torch.clone}, "weights_are_not_negative", "a weight of -"),
        ({"read": after_padded_width}, "padding_changes_nothing", "a value moves by"),
        ({"read": after_other_pairs}, "pairs_do_not_leak", "another pair's value moves by"),
        ({"read": after_the_policy}, "no_gradient_reaches_the_policy", "reaches the policy's logits"),
        ({"read": in_double}, "single_precision_agrees_with_double", "the result is in float64"),
        ({"made": in_float64}, "single_precision_agrees_with_double", "slope, level is made in float64"),
        ({"made": LooseGate}, "state_dict_round_trips", "scale takes gradient and is no parameter"),
    ],
)
def test_the_check_tells_it(fields: dict[str, Any], failing: str, fault: str) -> None:
    names = {
        "weights_are_not_negative",
        "padding_changes_nothing",
        "pairs_do_not_leak",
        "no_gradient_reaches_the_policy",
        "single_precision_agrees_with_double",
        "state_dict_round_trips",
    }
    faults = {}
    for check in CHECKS:
        if check.name in names:
            try:
                check(GateWeighting(**fields))
            except ConformanceError as error:
                faults[check.name] = error
    assert failing in faults if failing else not faults, faults
    if failing:
        assert fault in faults[failing].fault
    if failing in {"weights_are_not_negative", "padding_changes_nothing", "pairs_do_not_leak"}:
        assert "what it learns moved by" in faults[failing].on
