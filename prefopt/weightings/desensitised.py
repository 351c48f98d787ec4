"""LD-DPO's weights: what a response says beyond the length of the other counts less."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import TokenWeighting
from prefopt.tokens import TokenBatch


@final
class LengthDesensitisedWeighting(TokenWeighting):
    """w_t = 1 for t up to the length of the pair's shorter response, alpha beyond it.

    The weights fall on policy and reference alike. Source: LD-DPO (arXiv 2409.06411), its length-desensitised
    likelihood.

    >>> LengthDesensitisedWeighting(alpha=0.25).alpha
    0.25
    """

    name: Literal["length_desensitised"] = "length_desensitised"
    alpha: float = Field(default=0.5, ge=0, le=1)

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        chosen, rejected = tokens.mask.sum(-1).chunk(2)
        shared = torch.minimum(chosen, rejected).repeat(2)
        steps = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
        full, reduced = tokens.logps.new_tensor([1.0, self.alpha])
        weights = torch.where(steps < shared[:, None], full, reduced)
        return torch.where(tokens.mask, weights, 0)
