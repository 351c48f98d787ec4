"""Weightings with one fault each as weightings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from prefopt.component import Component, Signal, TokenWeighting
from prefopt.tokens import TokenBatch
from tests.testing.saboteurs.level import STATES, level


class Negative(TokenWeighting):
    """w_t = -1.

    Source: these tests.
    """

    name: Literal["bad_weights_are_not_negative"] = "bad_weights_are_not_negative"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, -1.0)


class Overflowing(TokenWeighting):
    """w_t = 1, on padding too.

    Source: these tests.
    """

    name: Literal["bad_weights_are_zero_off_the_response"] = "bad_weights_are_zero_off_the_response"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.ones_like(tokens.logps)


class Standardised(TokenWeighting):
    """w_t = sigmoid((h_1 - mean h) / std h).

    Source: these tests.
    """

    name: Literal["bad_constant_signals_give_finite_weights"] = "bad_constant_signals_give_finite_weights"

    @property
    def requires(self) -> frozenset[Signal]:
        return STATES

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_hidden_states is not None
        states = tokens.ref_hidden_states[0].to(tokens.logps.dtype)
        standardised = (states - states.mean(-1, keepdim=True)) / states.std(-1, keepdim=True)
        return level(tokens, standardised[..., 0].sigmoid())


class Attached(TokenWeighting):
    """w_t = pi(y_t).

    Source: these tests.
    """

    name: Literal["bad_no_gradient_reaches_the_policy"] = "bad_no_gradient_reaches_the_policy"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, tokens.logps.exp())


class OnePrecision(TokenWeighting):
    """w_t = sigmoid(sum h).

    Source: these tests.
    """

    name: Literal["bad_states_may_be_in_half_precision"] = "bad_states_may_be_in_half_precision"

    @property
    def requires(self) -> frozenset[Signal]:
        return STATES

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_hidden_states is not None
        states = tokens.ref_hidden_states[0]
        return level(tokens, (states @ tokens.logps.new_ones(states.shape[-1])).sigmoid())


class ChargingModule(nn.Module):
    def forward(self, tokens: TokenBatch) -> Tensor:
        return self.weights_and_penalty(tokens)[0]

    def weights_and_penalty(self, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        return level(tokens, torch.ones_like(tokens.logps)), torch.full_like(tokens.logps, 0.1)


class PenalisesPadding(TokenWeighting):
    """w_t = 1, a penalty of 0.1 for each token, and for each position of padding.

    Source: these tests.
    """

    name: Literal["bad_penalties_are_of_response_tokens"] = "bad_penalties_are_of_response_tokens"

    def build(self, *, num_layers: int, hidden_size: int) -> ChargingModule:
        return ChargingModule()


class OnTheCpu(TokenWeighting):
    """w_t = 1 + t, counted on the CPU.

    Source: these tests.
    """

    name: Literal["bad_computes_where_its_inputs_are"] = "bad_computes_where_its_inputs_are"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, torch.ones_like(tokens.logps) + torch.arange(tokens.mask.shape[1]))


SABOTEURS: dict[str, type[Component]] = {
    "computes_where_its_inputs_are": OnTheCpu,
    "weights_are_not_negative": Negative,
    "weights_are_zero_off_the_response": Overflowing,
    "constant_signals_give_finite_weights": Standardised,
    "no_gradient_reaches_the_policy": Attached,
    "states_may_be_in_half_precision": OnePrecision,
    "penalties_are_of_response_tokens": PenalisesPadding,
}
