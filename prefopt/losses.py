"""Preference losses: from the rewards of the two responses to the loss of the pair. d = r(y_chosen) - r(y_rejected)."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.component import PreferenceLoss
from prefopt.hookspecs import hookimpl

__all__ = ["HingeLoss", "LogisticLoss", "SquaredLoss"]


@final
class LogisticLoss(PreferenceLoss):
    """loss = -(1 - e) log sigmoid(d - m) - e log sigmoid(-(d - m)), with label smoothing e and target margin m.

    e = m = 0 is DPO's (arXiv 2305.18290 eq. 7); e > 0 is conservative DPO's (Mitchell 2023, "A note on DPO with noisy
    preferences and relationship to IPO", eq. 3); m > 0 is SimPO's (arXiv 2405.14734 eq. 6).
    """

    name: Literal["logistic"] = "logistic"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    margin: float = 0.0

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        z = chosen - rejected - self.margin
        return -(1 - self.label_smoothing) * logsigmoid(z) - self.label_smoothing * logsigmoid(-z)


@final
class HingeLoss(PreferenceLoss):
    """loss = max(0, m - d), with target margin m.

    Source: the rank calibration loss of SLiC-HF (arXiv 2305.10425) on DPO's rewards, as in RSO (arXiv 2309.06657).
    """

    name: Literal["hinge"] = "hinge"
    margin: float = Field(default=1.0, gt=0)

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return torch.relu(self.margin - (chosen - rejected))


@final
class SquaredLoss(PreferenceLoss):
    """loss = (d - m)^2, with target margin m.

    Source: IPO (arXiv 2310.12036) eq. 17, where d is a difference of log-ratios and m = 1 / (2 tau).
    """

    name: Literal["squared"] = "squared"
    margin: float = Field(default=5.0, gt=0)

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return (chosen - rejected - self.margin).square()


@hookimpl
def prefopt_preference_losses() -> list[type[PreferenceLoss]]:
    return [LogisticLoss, HingeLoss, SquaredLoss]
