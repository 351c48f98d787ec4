"""Weights between another weighting's and one."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from prefopt.component import WeightFunction, weights_and_penalty
from prefopt.tokens import TokenBatch
from prefopt.weightings.composed import ComposedWeighting


@final
class MixedWeighting(ComposedWeighting):
    """w_t = 1 - s + s w'_t, w' another weighting's weights and s the `share`.

    No token weighs less than 1 - s, so that none drifts unpenalised; where w' has mean one, so has w. Gradients through
    w' are s times as large, and its penalties are as they were.
    Source: this package.

    >>> from prefopt import TokenWeighting, resolve
    >>> resolve(TokenWeighting, {"name": "mixed", "weighting": "random"}).share
    0.5
    """

    name: Literal["mixed"] = "mixed"
    share: float = Field(default=0.5, gt=0, le=1)

    def build(self, *, num_layers: int, hidden_size: int) -> MixedWeights:
        """What mixes the weights that the other's build gives."""
        return MixedWeights(self.weighting.build(num_layers=num_layers, hidden_size=hidden_size), self.share)


@final
class MixedWeights(nn.Module):
    """(TokenBatch) -> [N, T]: 1 - share + share times the function's weights; penalties are left as they are."""

    def __init__(self, function: WeightFunction, share: float) -> None:
        super().__init__()
        self.function = function
        self.share = share

    def forward(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return self.weights_and_penalty(tokens)[0]

    def weights_and_penalty(self, tokens: TokenBatch) -> tuple[Tensor, Tensor | None]:
        """The mixed weights [N, T], and the penalty [N, T] or None."""
        weights, penalty = weights_and_penalty(self.function, tokens)
        return torch.where(tokens.mask, 1 - self.share + self.share * weights, 0), penalty
