"""Losses that read the rewards of the whole batch: the loss of a pair depends on other pairs."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from prefopt.component import PreferenceLoss, Signal
from prefopt.draws import uniform_draws
from prefopt.tokens import TokenBatch, masked_sum
from prefopt.validation import Seed


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


@final
class DynamicBetaLoss(PreferenceLoss):
    """loss = -log sigmoid(c d), c = max(1 + a (mean d / beta - M), 0.001 / beta), d = r_c - r_j, over the pairs of a
    step that are kept.

    d / beta is the plain difference of log-ratios, and M and S are running means of its mean and standard deviation
    over all pairs of a step, those of this step included; c passes no gradient. Of B pairs, B (1 - drop) are kept,
    drawn without replacement with probabilities as exp(-((d / beta - M) / S)^2 / 2), and their losses weigh B / kept,
    the others' nothing. In evaluation c is 1 and every pair is kept. The draws depend on the seed, the step and the
    pair.
    Source: beta-DPO (arXiv 2407.08639) as released: M and S start at 0 and move by a tenth a step, a 0.6, drop 0.2.

    >>> DynamicBetaLoss(beta=0.1).couples_pairs
    True
    """

    name: Literal["dynamic_beta"] = "dynamic_beta"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    a: float = Field(default=0.6, ge=0, allow_inf_nan=False)
    drop: float = Field(default=0.2, ge=0, lt=1)
    seed: Seed = 0

    @property
    def couples_pairs(self) -> bool:
        return True

    def build(self) -> RunningMargin:
        """The loss with its running means."""
        return RunningMargin(self)


@final
class RunningMargin(nn.Module):
    """The state of DynamicBetaLoss: (chosen [B], rejected [B], TokenBatch) -> [B].

    `mean` and `deviation` are those of margins of log-ratios, `steps` how often they moved: in training mode, where
    gradients are recorded.
    """

    mean: Tensor
    deviation: Tensor
    steps: Tensor

    def __init__(self, config: DynamicBetaLoss) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        """chosen, rejected [B] -> [B]."""
        margins = chosen - rejected
        if not (self.training and torch.is_grad_enabled()):
            return -logsigmoid(margins)
        with torch.no_grad():
            plain = margins / self.config.beta
            self.steps += 1
            self.mean += (1 - _KEPT_OF_MEAN) * (plain.mean() - self.mean)
            self.deviation += (1 - _KEPT_OF_MEAN) * (plain.std(correction=min(1, len(plain) - 1)) - self.deviation)
            kept = self._kept(plain, tokens)
            factor = 1 + self.config.a * ((plain * kept).sum() / kept.sum() - self.mean)
            factor = factor.clamp(min=_LEAST_BETA / self.config.beta)
        return -logsigmoid(factor * margins) * kept * (len(margins) / kept.sum())

    def _kept(self, plain: Tensor, tokens: TokenBatch) -> Tensor:
        """[B], 1 for the pairs that are kept: the highest of the logarithm of their weight and Gumbel noise."""
        z = (plain - self.mean) / torch.where(self.deviation > 0, self.deviation, 1)
        draws = uniform_draws(tokens, self.steps + 1_000_003 * self.config.seed)[:, 0].view(2, -1).sum(0) % 1
        noise = -torch.log(-torch.log(draws.clamp(min=2**-25)))
        number = max(1, int(len(plain) * (1 - self.config.drop)))
        ranks = (noise - z.square() / 2).argsort(descending=True, stable=True).argsort()
        return (ranks < number).to(plain.dtype)


_KEPT_OF_MEAN, _LEAST_BETA = 0.9, 1e-3
