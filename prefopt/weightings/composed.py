"""Weightings made of weightings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import final

from pydantic import SerializeAsAny
from torch import Tensor, nn

from prefopt.columns import Column
from prefopt.component import Signal, TokenWeighting, WeightFunction, built, weights_and_penalty
from prefopt.tokens import TokenBatch


class ComposedWeighting(TokenWeighting, ABC):
    """A weighting that changes the weights of another, `weighting`, and needs what that needs."""

    weighting: SerializeAsAny[TokenWeighting]

    @property
    def requires(self) -> frozenset[Signal]:
        return self.weighting.requires

    @property
    def activation_kinds(self) -> frozenset[str]:
        return self.weighting.activation_kinds

    @property
    def columns(self) -> frozenset[Column]:
        return self.weighting.columns

    @property
    def expected_failures(self) -> Mapping[str, str]:
        return self.weighting.expected_failures

    @abstractmethod
    def change(self, weights: Tensor, tokens: TokenBatch) -> Tensor:
        """The other's weights [N, T], 0 off the response -> [N, T]."""

    def build(self, *, num_layers: int, hidden_size: int) -> ChangedWeights:
        """What changes the weights that the other's build gives."""
        return ChangedWeights(built(self.weighting, num_layers=num_layers, hidden_size=hidden_size), self.change)


@final
class ChangedWeights(nn.Module):
    """(TokenBatch) -> [N, T]: the function's weights, changed; its penalties are left as they are."""

    def __init__(self, function: WeightFunction, change: Callable[[Tensor, TokenBatch], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.change = change

    def forward(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return self.weights_and_penalty(tokens)[0]

    def weights_and_penalty(self, tokens: TokenBatch) -> tuple[Tensor, Tensor | None]:
        """The changed weights [N, T], and the penalty [N, T] or None."""
        weights, penalty = weights_and_penalty(self.function, tokens)
        return self.change(weights, tokens), penalty
