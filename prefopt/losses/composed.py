"""Losses made of losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, Self, final

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from prefopt.columns import Column
from prefopt.component import LossFunction, PreferenceLoss, Signal, built
from prefopt.tokens import TokenBatch


class ComposedLoss(PreferenceLoss):
    """A loss that holds others, `parts`, and needs what they need."""

    @property
    @abstractmethod
    def parts(self) -> tuple[PreferenceLoss, ...]:
        """The losses that it holds."""

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset().union(*(loss.requires for loss in self.parts))

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset().union(*(loss.columns for loss in self.parts))

    @property
    def couples_pairs(self) -> bool:
        return any(loss.couples_pairs for loss in self.parts)

    @property
    def sorts_pairs(self) -> bool:
        return any(loss.sorts_pairs for loss in self.parts)

    @property
    def reads_whole_responses(self) -> bool:
        return any(loss.reads_whole_responses for loss in self.parts)

    @property
    def expected_failures(self) -> Mapping[str, str]:
        first, *others = self.parts
        return {} if others else first.expected_failures  # others may make up for what one fails


@final
class MixtureLoss(ComposedLoss):
    """loss = sum_i weights_i loss_i(r_c, r_j): several losses of the same rewards.

    Source: MPO (arXiv 2411.10442), whose parts are a preference, a quality and a generation loss; the last is the
    regulariser `nll` here. ORPO (arXiv 2403.07691) weighs its one loss so.

    >>> from prefopt import resolve
    >>> resolve(PreferenceLoss, {"name": "mixture", "losses": ["logistic", "bco"], "weights": [0.8, 0.2]}).couples_pairs
    True
    """

    name: Literal["mixture"] = "mixture"
    losses: tuple[SerializeAsAny[PreferenceLoss], ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(ge=0)], ...]

    @property
    def parts(self) -> tuple[PreferenceLoss, ...]:
        return self.losses

    def build(self) -> WeightedSum:
        """The sum of what its losses build."""
        return WeightedSum(self.losses, self._constant)

    def _constant(self, tokens: TokenBatch) -> tuple[float, ...]:
        return self.weights

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if len(self.weights) != len(self.losses):
            raise ValueError(f"{len(self.losses)} losses need as many weights, got {len(self.weights)}")
        return self


@final
class WeightedSum(nn.Module):
    """loss = sum_i w_i loss_i, [B], w = weights(tokens): a number or [B] for each loss. Holds the losses' state."""

    def __init__(
        self, losses: Sequence[PreferenceLoss], weights: Callable[[TokenBatch], Sequence[float | Tensor]]
    ) -> None:
        super().__init__()
        self.weights = weights
        self.losses: list[LossFunction] = [built(loss) for loss in losses]
        self.stateful = nn.ModuleList(loss for loss in self.losses if isinstance(loss, nn.Module))

    def forward(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        terms = zip(self.weights(tokens), self.losses, strict=True)
        return torch.stack([weight * loss(chosen, rejected, tokens) for weight, loss in terms]).sum(0)
