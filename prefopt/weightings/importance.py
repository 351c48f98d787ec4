"""TI-DPO's weights: how far a token moves what a model says after the response, and where it stands."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import Signal, TokenWeighting
from prefopt.tokens import TokenBatch
from prefopt.weightings.budgets import mean_one


@final
class ImportanceWeighting(TokenWeighting):
    """w_t = lam I_t / mean I + (1 - lam) P_t / mean P, P_t = exp(-((t - (T + 1) / 2) / s)^2 / 2), s = max(1, T / 4).

    I_t is the 1-norm of the gradient of the highest logit after the response at y_t's input embedding. The weights have
    mean one, as released; P alone where I is zero on the whole response. lam 0 takes no gradient: a bell over the
    positions, the control for lam above 0.

    model  whose gradient: "policy", as it is at the step, which takes a forward and a backward pass more; or
           "reference", which is the policy at the first step and stays, so that a reference cache keeps it
    Source: TI-DPO (arXiv 2505.19653), with the s of the paper and the scale of its code.

    >>> ImportanceWeighting(lam=0)(TokenBatch(*torch.zeros(2, 2, 1), torch.ones(2, 1) > 0, torch.ones(2, 1))).tolist()
    [[1.0], [1.0]]
    """

    name: Literal["importance"] = "importance"
    lam: float = Field(default=0.7, ge=0, le=1)
    model: Literal["policy", "reference"] = "policy"

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({_SIGNALS[self.model]} if self.lam else ())

    @torch.no_grad()
    def __call__(self, tokens: TokenBatch) -> Tensor:
        """Reads input_gradient or ref_input_gradient [N, T], where lam is above 0 -> [N, T]."""
        prior = mean_one(_bell(tokens), tokens)
        if not self.lam:
            return prior
        gradients: Tensor = getattr(tokens, _SIGNALS[self.model])
        norms = torch.where(tokens.mask, gradients.to(prior.dtype), 0)
        mixed = self.lam * mean_one(norms, tokens) + (1 - self.lam) * prior
        return torch.where(norms.any(-1, keepdim=True), mixed, prior)


def _bell(tokens: TokenBatch) -> Tensor:
    """[N, T], highest in the middle of each response; 0 off it."""
    mask, dtype = tokens.mask, tokens.logps.dtype
    length = mask.sum(-1, keepdim=True).to(dtype)
    steps = torch.arange(mask.shape[1], device=mask.device, dtype=dtype)
    distances = (steps - (length - 1) / 2) / (length / 4).clamp(min=1)
    return torch.where(mask, (-distances.square() / 2).exp(), 0)


_SIGNALS = MappingProxyType({"policy": Signal.INPUT_GRADIENT, "reference": Signal.REF_INPUT_GRADIENT})
