"""Losses of the margin alone: d = r(y_chosen) - r(y_rejected)."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, log1p
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.component import PreferenceLoss
from prefopt.stable import capped_exp, capped_expm1
from prefopt.tokens import TokenBatch


@final
class LogisticLoss(PreferenceLoss):
    """loss = -(1 - e) log sigmoid(d - m) - e log sigmoid(-(d - m)), with label smoothing e and target margin m.

    Source: e = m = 0 is DPO's (arXiv 2305.18290 eq. 7); e > 0 is conservative DPO's (Mitchell 2023, "A note on DPO with
    noisy preferences and relationship to IPO", eq. 3); m > 0 is SimPO's (arXiv 2405.14734 eq. 6).

    >>> LogisticLoss(margin=1.0)(torch.tensor([2.0]), torch.tensor([0.5]), None)
    tensor([0.4741])
    """

    name: Literal["logistic"] = "logistic"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    margin: float = 0.0

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        z = chosen - rejected - self.margin
        return -(1 - self.label_smoothing) * logsigmoid(z) - self.label_smoothing * logsigmoid(-z)


@final
class ShiftedLoss(PreferenceLoss):
    """loss = -log sigmoid(r_c - lam r_j), lam at most one.

    The rejected reward counts less, so that the chosen one is not pulled down with it; the margin that is reported is
    the plain one. Source: DPO-Shift (arXiv 2502.07599), its fixed lam.

    >>> ShiftedLoss(lam=0.5)(torch.tensor([2.0]), torch.tensor([0.5]), None)
    tensor([0.1602])
    """

    name: Literal["shifted"] = "shifted"
    lam: float = Field(default=0.7, gt=0, le=1)

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return -logsigmoid(chosen - self.lam * rejected)


@final
class RobustLoss(PreferenceLoss):
    """loss = (-(1 - e) log sigmoid(d) + e log sigmoid(-d)) / (1 - 2 e), with e the share of flipped labels.

    Its expectation under flipped labels is the logistic loss of the clean ones. Not bounded below: with e > 0 it falls
    without end as the margin grows. Source: robust DPO (arXiv 2403.00409).

    >>> RobustLoss(label_smoothing=0.1)(torch.tensor([2.0]), torch.tensor([0.5]), None)
    tensor([0.0139])
    """

    name: Literal["robust"] = "robust"
    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5)

    @property
    def expected_failures(self) -> Mapping[str, str]:
        reason = "unbiased under flipped labels, which takes a negative part"
        return {"loss_is_bounded_below": reason} if self.label_smoothing else {}

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        d = chosen - rejected
        flipped = self.label_smoothing * logsigmoid(-d)
        return (flipped - (1 - self.label_smoothing) * logsigmoid(d)) / (1 - 2 * self.label_smoothing)


@final
class HingeLoss(PreferenceLoss):
    """loss = max(0, m - d), with target margin m.

    Source: the rank calibration loss of SLiC-HF (arXiv 2305.10425) on DPO's rewards, as in RSO (arXiv 2309.06657).

    >>> HingeLoss()(torch.tensor([0.75]), torch.tensor([0.5]), None)
    tensor([0.7500])
    """

    name: Literal["hinge"] = "hinge"
    margin: float = Field(default=1.0, gt=0)

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return torch.relu(self.margin - (chosen - rejected))


@final
class SquaredLoss(PreferenceLoss):
    """loss = (d - m)^2, with target margin m.

    Source: IPO (arXiv 2310.12036) eq. 17, where d is a difference of log-ratios and m = 1 / (2 tau).

    >>> SquaredLoss(margin=5.0)(torch.tensor([2.0]), torch.tensor([0.5]), None)
    tensor([12.2500])
    """

    name: Literal["squared"] = "squared"
    margin: float = Field(default=5.0, gt=0)

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        return (chosen - rejected - self.margin).square()


@final
class ExoLoss(PreferenceLoss):
    """loss = s (log s - log(1 - e)) + (1 - s) (log(1 - s) - log e), with s = sigmoid(d): KL of (s, 1 - s) to (1 - e,
    e).

    Source: EXO (arXiv 2402.00856) eq. 16, for pairs.

    >>> ExoLoss()(torch.tensor([2.0]), torch.tensor([0.5]), None)
    tensor([0.7859])
    """

    name: Literal["exo"] = "exo"
    label_smoothing: float = Field(default=1e-3, gt=0, lt=0.5)

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        d = chosen - rejected
        preferred = d.sigmoid() * (logsigmoid(d) - log1p(-self.label_smoothing))
        other = (-d).sigmoid() * (logsigmoid(-d) - log(self.label_smoothing))
        return preferred + other


@final
class DiscoPopLoss(PreferenceLoss):
    """loss = -(1 - m) log sigmoid(d) + m exp(-d), with m = sigmoid(d / tau).

    A blend of logistic and exponential losses, found by search; computed so that exp(-d) cannot overflow where its
    share vanishes. Source: DiscoPOP (arXiv 2406.08414) eq. 5.

    >>> DiscoPopLoss()(torch.tensor([2.0]), torch.tensor([0.5]), None)
    tensor([0.2231])
    """

    name: Literal["discopop"] = "discopop"
    tau: float = Field(default=0.05, gt=0, lt=1)

    @property
    def expected_failures(self) -> Mapping[str, str]:
        reason = "found by search: it rises near 0, where its two parts change"
        return {"loss_falls_as_the_margin_grows": reason}

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        d = chosen - rejected
        exponential = (logsigmoid(d / self.tau) - d).exp()
        return exponential - (-d / self.tau).sigmoid() * logsigmoid(d)


@final
class ScaledBasuLoss(PreferenceLoss):
    """loss = (exp(-(1 + lam) d) / (1 + lam) - (exp(lam d) - 1) / lam) / s; with lam = 0, (exp(-d) - d) / s.

    The scaled Basu power divergence of the ratio of preference probabilities R = exp(-d) from 1. With s = 4 its slope
    at d = 0 is the logistic loss's, -1/2, but it does not level off: at lam = 0 the slope is never above -1/s, and the
    loss is not bounded below. Beyond an exponent of 30 the exponentials go on as their tangents.
    Source: BPO's SBA (arXiv 2505.19601), without its constant 1 / (s lam); TBPO (arXiv 2605.12288) with lam = 0, s = 4.

    >>> ScaledBasuLoss()(torch.tensor([0.5]), torch.tensor([0.5]), None)
    tensor([0.2500])
    """

    name: Literal["scaled_basu"] = "scaled_basu"
    lam: float = Field(default=0.0, ge=0)
    s: float = Field(default=4.0, gt=0)

    @property
    def expected_failures(self) -> Mapping[str, str]:
        return {"loss_is_bounded_below": "as published: its slope does not level off"}

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        d, power = chosen - rejected, 1 + self.lam
        gain = capped_expm1(self.lam * d, 30) / self.lam if self.lam else d
        return (capped_exp(-power * d, 30) / power - gain) / self.s
