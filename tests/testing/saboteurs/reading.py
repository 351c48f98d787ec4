"""Weightings with one fault each in what their results depend on, what they read and what they keep."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from prefopt.component import Component, Signal, TokenWeighting
from prefopt.tokens import TokenBatch, masked_mean
from tests.testing.saboteurs.level import ACTIVATIONS, level


class ByWidth(TokenWeighting):
    """w_t = 1 / T, T the padded width.

    Source: these tests.
    """

    name: Literal["bad_padding_changes_nothing"] = "bad_padding_changes_nothing"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1 / tokens.mask.shape[1])


class Leaking(TokenWeighting):
    """w_t = 1 + the mean over the batch of sigmoid(a).

    Source: these tests.
    """

    name: Literal["bad_pairs_do_not_leak"] = "bad_pairs_do_not_leak"

    @property
    def requires(self) -> frozenset[Signal]:
        return ACTIVATIONS

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset({"mlp"})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        means = masked_mean(tokens.ref_activations[0].sigmoid(), tokens.mask)
        return level(tokens, 1 + means.mean())


class ByBatchSize(TokenWeighting):
    """w_t = 1 / B.

    Source: these tests.
    """

    name: Literal["bad_cutting_the_batch_changes_nothing"] = "bad_cutting_the_batch_changes_nothing"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1 / tokens.pairs)


class Undeclared(TokenWeighting):
    """w_t = sigmoid(a).

    Source: these tests.
    """

    name: Literal["bad_reads_only_what_it_declares"] = "bad_reads_only_what_it_declares"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        return level(tokens, tokens.ref_activations[0].sigmoid())


class DeadModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(()))

    def forward(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, self.theta.relu())


class Dead(TokenWeighting):
    """w_t = relu(theta), theta from N(0, 1).

    Source: these tests.
    """

    name: Literal["bad_no_dead_start"] = "bad_no_dead_start"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return DeadModule()


class CutOffModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, self.theta.detach().exp())


class CutOff(TokenWeighting):
    """w_t = exp(theta), theta without gradient.

    Source: these tests.
    """

    name: Literal["bad_learned_parameters_learn"] = "bad_learned_parameters_learn"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return CutOffModule()


class ForgetfulModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = torch.rand(()).item()

    def forward(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, self.value)


class Forgetful(TokenWeighting):
    """w_t = a random number, kept in an attribute.

    Source: these tests.
    """

    name: Literal["bad_state_dict_round_trips"] = "bad_state_dict_round_trips"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return ForgetfulModule()


SABOTEURS: dict[str, type[Component]] = {
    "padding_changes_nothing": ByWidth,
    "pairs_do_not_leak": Leaking,
    "cutting_the_batch_changes_nothing": ByBatchSize,
    "reads_only_what_it_declares": Undeclared,
    "no_dead_start": Dead,
    "learned_parameters_learn": CutOff,
    "state_dict_round_trips": Forgetful,
}
