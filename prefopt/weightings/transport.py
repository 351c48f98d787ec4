"""OTPO's weights: how much of a response the other one can be carried over to, by the states of a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from prefopt.component import Signal, TokenWeighting
from prefopt.tokens import TokenBatch
from prefopt.weightings.budgets import shorter

_PRECISION = 1e-12
"""What is left of the first error of the potentials when the iteration ends."""
_MOST_STEPS = 1000


@final
class TransportWeighting(TokenWeighting):
    """w_t = G_t b / sum G, G_t the mass at t of the plan G that minimises <G, M> + e KL(G | 1) + m KL(G 1 | 1) + m
    KL(G' 1 | 1), b the length of the pair's shorter response.

    M_ij = |h_i - h_j|, h a model's last hidden states where token i of the chosen and j of the rejected response are
    predicted; e is `reg`, m is `reg_m`. So tokens that have something like them in the other response count more, and
    both responses come to b. M is divided by the largest of all |h_i - h_j|, |h_i| and |h_j|, where that is above one:
    the release divides by the maximum of a matrix in which prompt and padding stand as zero vectors. No gradient
    passes.

    states  the model: "policy", as it is at the step; or "reference", which is the policy at the first step and stays,
            so that a reference cache keeps the states, but collects those of all layers
    Source: OTPO (arXiv 2505.18720) as released: the policy, reg 1.0, reg_m 0.2, and 0.1 for reg with its 3B models.

    >>> sorted(TransportWeighting().requires)
    [<Signal.LAST_STATES: 'last_states'>]
    """

    name: Literal["transport"] = "transport"
    states: Literal["policy", "reference"] = "policy"
    reg: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    reg_m: float = Field(default=0.2, gt=0, allow_inf_nan=False)

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({_STATES[self.states].signal})

    @property
    def steps(self) -> int:
        """The steps of the iteration: each multiplies the error of the potentials by (reg_m / (reg_m + reg))^2."""
        return max(1, math.ceil(-math.log(_PRECISION) / (2 * math.log1p(self.reg / self.reg_m))))

    @model_validator(mode="after")
    def _converges(self) -> Self:
        if self.steps > _MOST_STEPS:
            raise ValueError(
                f"reg is {self.reg:g} beside reg_m {self.reg_m:g}, which takes {self.steps} steps a batch; raise reg "
                f"to {self.reg_m / 70:.2g} or more"
            )
        return self

    @torch.no_grad()
    def __call__(self, tokens: TokenBatch) -> Tensor:
        """Reads last_states [N, T, H], or the last of ref_hidden_states [L, N, T, H] -> [N, T]."""
        dtype, source = tokens.logps.dtype, _STATES[self.states]
        states = torch.where(tokens.mask[..., None], source.of_batch(tokens).to(dtype), 0)
        mask, rejected_mask = tokens.mask.chunk(2)
        log_kernel = (-_costs(*states.chunk(2)) / self.reg).masked_fill(
            ~(mask[:, :, None] & rejected_mask[:, None, :]), -torch.inf
        )
        softness = self.reg_m / (self.reg_m + self.reg)
        potentials = torch.zeros_like(mask, dtype=dtype)
        for _ in range(self.steps):
            others = -softness * _log_sums(log_kernel + potentials[:, :, None], 1, rejected_mask)
            potentials = -softness * _log_sums(log_kernel + others[:, None, :], 2, mask)
        log_plan = log_kernel + potentials[:, :, None] + others[:, None, :]
        plan = log_plan.exp()
        masses = torch.cat([plan.sum(2), plan.sum(1)])
        total = masses.sum(-1, keepdim=True)
        return masses / torch.where(total > 0, total, 1) * shorter(tokens)[:, None].to(dtype)


class _States(NamedTuple):
    signal: Signal
    of_batch: Callable[[TokenBatch], Tensor]


def _of_policy(tokens: TokenBatch) -> Tensor:
    assert tokens.last_states is not None
    return tokens.last_states


def _of_reference(tokens: TokenBatch) -> Tensor:
    assert tokens.ref_hidden_states is not None
    return tokens.ref_hidden_states[-1]


_STATES = MappingProxyType(
    {
        "policy": _States(Signal.LAST_STATES, _of_policy),
        "reference": _States(Signal.REF_HIDDEN_STATES, _of_reference),
    }
)


def _costs(chosen: Tensor, rejected: Tensor) -> Tensor:
    """chosen, rejected [B, T, H], zero off the response -> [B, T, T]: distances over the largest distance or norm."""
    distances = torch.cdist(chosen, rejected)
    norms = torch.maximum(chosen.norm(dim=-1).amax(-1), rejected.norm(dim=-1).amax(-1))
    largest = torch.maximum(distances.amax((1, 2)), norms)
    return distances / largest.clamp(min=1)[:, None, None]


def _log_sums(values: Tensor, axis: int, mask: Tensor) -> Tensor:
    """The log of sums of exponentials over an axis of values [B, T, T] -> [B, T], 0 off the mask [B, T]."""
    sums = values.logsumexp(axis)
    return torch.where(mask & sums.isfinite(), sums, 0)
