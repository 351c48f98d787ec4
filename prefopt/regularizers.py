"""Regularisers: terms added to the loss of each pair."""

from __future__ import annotations

import sys
from types import MappingProxyType
from typing import Literal, final

from pydantic import Field
from torch import Tensor

from prefopt.component import Regularizer, Signal
from prefopt.hookspecs import concrete_classes, hookimpl
from prefopt.tokens import TokenBatch, masked_mean, masked_sum


@final
class MaskL1(Regularizer):
    """penalty = reward (sum_t w_t) + divergence (sum_t v_t), each sum over the tokens of both responses of the pair.

    Weights are non-negative, so the sum is the L1 norm. A mask that serves both terms is penalised for both.
    Source: SparsePO (arXiv 2410.05102), the L1 penalty on its masks.

    >>> MaskL1(reward=0.1).divergence
    0.0
    """

    name: Literal["mask_l1"] = "mask_l1"
    reward: float = Field(default=0.0, ge=0)
    divergence: float = Field(default=0.0, ge=0)

    @property
    def requires(self) -> frozenset[Signal]:
        # Without a divergence term there is no v to penalise.
        return frozenset({Signal.DIVERGENCE}) if self.divergence else frozenset()

    def __call__(self, tokens: TokenBatch, weights: Tensor, divergence_weights: Tensor) -> Tensor:
        """weights, divergence_weights [N, T] -> [B]."""
        penalty = self.reward * weights + self.divergence * divergence_weights
        chosen, rejected = masked_sum(penalty, tokens.mask).chunk(2)
        return chosen + rejected


@final
class NegativeLogLikelihood(Regularizer):
    """penalty = -weight (1 / T) sum_t log pi(y_t) over the chosen response, or its plain sum.

    The mean is over the tokens of each response, then over pairs. Source: RPO (arXiv 2404.19733), where it is a mean;
    CPO (arXiv 2401.08417) and ORPO (arXiv 2403.07691) write it as a sum and compute a mean.

    >>> NegativeLogLikelihood(weight=0.5).reduction
    'mean'
    """

    name: Literal["nll"] = "nll"
    weight: float = Field(default=1.0, ge=0)
    reduction: Literal["mean", "sum"] = "mean"

    def __call__(self, tokens: TokenBatch, weights: Tensor, divergence_weights: Tensor) -> Tensor:
        """-> [B]."""
        # Of weight 0 it has no say where a log-probability is -inf either: 0 times that is nan.
        reduced = _REDUCTIONS[self.reduction](tokens.logps, tokens.mask & bool(self.weight))
        return -self.weight * reduced[: tokens.pairs]


_REDUCTIONS = MappingProxyType({"mean": masked_mean, "sum": masked_sum})


@hookimpl
def prefopt_regularizers() -> list[type[Regularizer]]:
    return concrete_classes(Regularizer, sys.modules[__name__])  # type: ignore[type-abstract]
