"""Weights that make up for the lengths of a pair's responses."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import TokenWeighting
from prefopt.draws import uniform_draws
from prefopt.tokens import TokenBatch
from prefopt.validation import Seed
from prefopt.weightings.budgets import shorter


@final
class LengthDesensitisedWeighting(TokenWeighting):
    """w_t = 1 for t up to the length of the pair's shorter response, alpha beyond it.

    The weights fall on policy and reference alike. Source: LD-DPO (arXiv 2409.06411), its length-desensitised
    likelihood. alpha 0
    is POET (arXiv 2506.09457), which cuts both responses to one length.

    >>> LengthDesensitisedWeighting(alpha=0.25).alpha
    0.25
    """

    name: Literal["length_desensitised"] = "length_desensitised"
    alpha: float = Field(default=0.5, ge=0, le=1)

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        steps = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
        full, reduced = tokens.logps.new_tensor([1.0, self.alpha])
        weights = torch.where(steps < shorter(tokens)[:, None], full, reduced)
        return torch.where(tokens.mask, weights, 0)


@final
class DownSampledWeighting(TokenWeighting):
    """w_t = 1 on b tokens of the response, drawn at random, 0 on the others, b the length of the pair's shorter
    response.

    The draw depends on the seed and the response's tokens, and is the same in every epoch, for policy and reference.
    Its expectation is b / T: `uniform` scaled to `pair_min`. Source: SamPO (arXiv 2406.10957), its down-sampling; as
    released, policy and reference are each drawn anew, so that theirs are other tokens.

    >>> DownSampledWeighting(seed=1).seed
    1
    """

    name: Literal["down_sampled"] = "down_sampled"
    seed: Seed = 0

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        draws = uniform_draws(tokens, self.seed).masked_fill(~tokens.mask, torch.inf)
        ranks = draws.argsort(dim=-1, stable=True).argsort(dim=-1)
        return (tokens.mask & (ranks < shorter(tokens)[:, None])).to(tokens.logps.dtype)
