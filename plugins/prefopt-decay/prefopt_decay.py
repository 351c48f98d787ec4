"""Temporal decay, a token weighting for prefopt: earlier tokens count more."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt import TokenBatch, TokenWeighting, hookimpl

__all__ = ["DecayWeighting"]


@final
class DecayWeighting(TokenWeighting):
    """w_t = gamma^t, t = 0, 1, 2, ... over the response's tokens.

    gamma = 1 weighs all tokens alike, as DPO does; gamma = 0 keeps the first one only.
    Source: D2PO (arXiv 2502.14340), its temporal decay of token rewards.
    """

    name: Literal["decay"] = "decay"
    gamma: float = Field(default=0.98, ge=0, le=1)

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        steps = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
        weights = tokens.logps.new_tensor(self.gamma) ** steps
        return torch.where(tokens.mask, weights, 0)


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [DecayWeighting]
