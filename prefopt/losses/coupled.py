"""Losses that compare whole distributions of rewards: the loss of a pair depends on the other pairs of the batch."""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.component import PreferenceLoss

__all__ = ["AotLoss"]


@final
class AotLoss(PreferenceLoss):
    """loss_i = logistic(sorted(r_c)_i - sorted(r_j)_i), with label smoothing: the i-th smallest against the i-th
    smallest.

    Chosen rewards are to dominate rejected ones as distributions; who was paired with whom does not matter.
    Source: AOT, unpaired (arXiv 2406.05882).
    """

    name: Literal["aot"] = "aot"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)

    @property
    def couples_pairs(self) -> bool:
        return True

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """chosen, rejected [B] -> [B], in the order of their quantiles."""
        z = chosen.sort().values - rejected.sort().values
        return -(1 - self.label_smoothing) * logsigmoid(z) - self.label_smoothing * logsigmoid(-z)
