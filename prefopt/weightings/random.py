"""Random weights: the control for what a mask has learned."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import TokenWeighting
from prefopt.tokens import TokenBatch
from prefopt.weightings.draws import uniform_draws


@final
class RandomWeighting(TokenWeighting):
    """w_t = u_t, uniform on [0, 1).

    The draws depend on the seed, the response's tokens and t, so that a response has the same weights in every epoch.
    Source: SparsePO (arXiv 2410.05102), its mask of uniform random numbers; that they are fixed per response is this
    package's.

    >>> RandomWeighting(seed=1).seed
    1
    """

    name: Literal["random"] = "random"
    seed: int = Field(default=0, ge=0)

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return torch.where(tokens.mask, uniform_draws(tokens, self.seed), 0)
