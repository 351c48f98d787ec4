"""Losses that read the rewards of the whole batch: the loss of a pair depends on other pairs."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from prefopt.component import PreferenceLoss, Signal
from prefopt.tokens import TokenBatch, masked_sum


class _SortingLoss(PreferenceLoss):
    """loss_i = logistic(z_i), with label smoothing, z_i a difference of the i-th smallest of the batch."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)

    @property
    def couples_pairs(self) -> bool:
        return True

    @property
    def sorts_pairs(self) -> bool:
        return True

    def _logistic(self, z: Tensor) -> Tensor:
        return -(1 - self.label_smoothing) * logsigmoid(z) - self.label_smoothing * logsigmoid(-z)


@final
class AotLoss(_SortingLoss):
    """loss_i = logistic(sorted(r_c)_i - sorted(r_j)_i), with label smoothing: the i-th smallest against the i-th
    smallest.

    Chosen rewards are to dominate rejected ones as distributions; who was paired with whom does not matter.
    Source: AOT, unpaired (arXiv 2406.05882).

    >>> AotLoss().couples_pairs, AotLoss().sorts_pairs
    (True, True)
    """

    name: Literal["aot"] = "aot"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B], in the order of their quantiles."""
        return self._logistic(chosen.sort().values - rejected.sort().values)


@final
class AotPairedLoss(_SortingLoss):
    """loss_i = logistic(sorted(d + s g)_i - sorted(s g)_i), with label smoothing, g = sum log pi_ref(y_c) - sum log
    pi_ref(y_j).

    With s the objective's beta, d + s g is beta times the policy's own log-ratio of the two responses: the policy's
    preferences are to dominate the reference's as distributions. Source: AOT, paired (arXiv 2406.05882).

    >>> AotPairedLoss(reference_scale=0.2).couples_pairs
    True
    """

    name: Literal["aot_paired"] = "aot_paired"
    reference_scale: float = Field(default=0.1, gt=0)

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({Signal.REF_LOGPS})

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B], in the order of their quantiles."""
        ref_chosen, ref_rejected = masked_sum(tokens.ref_logps, tokens.mask).chunk(2)
        reference = self.reference_scale * (ref_chosen - ref_rejected)
        z = (chosen - rejected + reference).sort().values - reference.sort().values
        return self._logistic(z)


@final
class BcoLoss(PreferenceLoss):
    """loss = -log sigmoid(r_c - delta) - log sigmoid(-(r_j - delta)), delta the mean of all rewards seen in training.

    A binary classifier of good and bad responses, around a running baseline that passes no gradient. The rewards of
    the batch are in delta before its loss is taken. Source: BCO (arXiv 2404.04656), its reward shift.

    >>> BcoLoss().build().mean
    tensor(0.)
    """

    name: Literal["bco"] = "bco"

    @property
    def couples_pairs(self) -> bool:
        return True

    def build(self) -> RunningBaseline:
        """The loss with its running mean."""
        return RunningBaseline()


@final
class RunningBaseline(nn.Module):
    """The state of BcoLoss: (chosen [B], rejected [B], TokenBatch) -> [B].

    `mean` and `count` are those of the rewards seen in training. They move only in training mode and where gradients
    are recorded, so that evaluation is by the baseline as training left it.
    """

    mean: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        if self.training and torch.is_grad_enabled():
            rewards = torch.cat([chosen, rejected]).detach()
            self.count += len(rewards)
            self.mean += (rewards - self.mean).sum() / self.count
        delta = self.mean.clone()  # the next batch moves the mean in place, perhaps before this one's backward
        return -logsigmoid(chosen - delta) - logsigmoid(delta - rejected)
