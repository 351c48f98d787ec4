"""Weightings with one fault each in what they return."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from prefopt.component import Component, Signal, TokenWeighting
from prefopt.tokens import TokenBatch, masked_mean
from tests.testing.saboteurs.level import ACTIVATIONS, STATES, level


class SampleDeviation(TokenWeighting):
    """w_t = 1 / (1 + s), s the standard deviation with n - 1.

    Source: these tests.
    """

    name: Literal["bad_one_token_responses_are_finite"] = "bad_one_token_responses_are_finite"

    @property
    def requires(self) -> frozenset[Signal]:
        return ACTIVATIONS

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset({"mlp"})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        values = tokens.ref_activations[0]
        centred = values - masked_mean(values, tokens.mask)[:, None]
        squares = torch.where(tokens.mask, centred.square(), 0).sum(-1) / (tokens.mask.sum(-1) - 1)
        return level(tokens, 1 / (1 + squares.sqrt())[:, None])


class Writing(TokenWeighting):
    """w_t = 1.

    Source: these tests.
    """

    name: Literal["bad_inputs_are_not_modified"] = "bad_inputs_are_not_modified"

    @property
    def requires(self) -> frozenset[Signal]:
        return ACTIVATIONS

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset({"mlp"})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        tokens.ref_activations.zero_()
        return level(tokens, 1.0)


class Noisy(TokenWeighting):
    """w_t = 1 + noise.

    Source: these tests.
    """

    name: Literal["bad_evaluation_is_deterministic"] = "bad_evaluation_is_deterministic"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1 + 1e-12 * torch.rand_like(tokens.logps))


class Cancelling(TokenWeighting):
    """w_t = (1e6 + sigmoid(a)) - 1e6.

    Source: these tests.
    """

    name: Literal["bad_single_precision_agrees_with_double"] = "bad_single_precision_agrees_with_double"

    @property
    def requires(self) -> frozenset[Signal]:
        return ACTIVATIONS

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset({"mlp"})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        return level(tokens, (1e6 + tokens.ref_activations[0].sigmoid()) - 1e6)


class Breaking(TokenWeighting):
    """w_t = 1, or 2 where nothing is padded.

    Source: these tests.
    """

    name: Literal["bad_compiles_whole"] = "bad_compiles_whole"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 2.0 if bool(tokens.mask.all()) else 1.0)


class WhereOutsideModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.ones(5))

    def forward(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_hidden_states is not None
        states = tokens.ref_hidden_states[0].to(self.direction.dtype)
        return level(tokens, (states @ self.direction).sigmoid())


class WhereOutside(TokenWeighting):
    """w_t = sigmoid(u h), in the padding too, where it is thrown away.

    Source: these tests.
    """

    name: Literal["bad_gradients_are_finite"] = "bad_gradients_are_finite"

    @property
    def requires(self) -> frozenset[Signal]:
        return STATES

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return WhereOutsideModule()


SABOTEURS: dict[str, type[Component]] = {
    "one_token_responses_are_finite": SampleDeviation,
    "inputs_are_not_modified": Writing,
    "evaluation_is_deterministic": Noisy,
    "single_precision_agrees_with_double": Cancelling,
    "compiles_whole": Breaking,
    "gradients_are_finite": WhereOutside,
}
