"""Losses made of losses."""

from __future__ import annotations

from typing import Literal, Self, final

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from prefopt.component import PreferenceLoss

__all__ = ["MixtureLoss"]


@final
class MixtureLoss(PreferenceLoss):
    """loss = sum_i weights_i loss_i(r_c, r_j): several losses of the same rewards.

    Source: MPO (arXiv 2411.10442), whose parts are a preference, a quality and a generation loss; the last is the
    regulariser `nll` here. ORPO (arXiv 2403.07691) weighs its one loss so.
    """

    name: Literal["mixture"] = "mixture"
    losses: tuple[SerializeAsAny[PreferenceLoss], ...] = Field(min_length=1)
    weights: tuple[float, ...]

    @property
    def couples_pairs(self) -> bool:
        return any(loss.couples_pairs for loss in self.losses)

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        terms = [weight * loss(chosen, rejected) for weight, loss in zip(self.weights, self.losses, strict=True)]
        return torch.stack(terms).sum(0)

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if len(self.weights) != len(self.losses):
            raise ValueError(f"{len(self.losses)} losses need as many weights, got {len(self.weights)}")
        return self
