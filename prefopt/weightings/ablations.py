"""Ablations of a mask: random weights, and a mask's own weights on the wrong tokens."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from prefopt.component import TokenWeighting
from prefopt.draws import uniform_draws
from prefopt.tokens import TokenBatch
from prefopt.validation import Seed
from prefopt.weightings.composed import ComposedWeighting


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
    seed: Seed = 0

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return torch.where(tokens.mask, uniform_draws(tokens, self.seed), 0)


@final
class ShuffledWeighting(ComposedWeighting):
    """w_t = w'_p(t), w' another weighting's weights and p a permutation of the response's tokens.

    Every response keeps the scale and sparsity of w', but not which tokens it selects. The permutation is drawn from
    the seed and the response's tokens, and is the same in every epoch. Gradients reach the parameters of w' through the
    permuted weights.
    Source: this package, as the control for masks that are meant to select the tokens that matter.

    >>> from prefopt import resolve
    >>> resolve(TokenWeighting, {"name": "shuffled", "weighting": "sparse"}).weighting.gate
    'relu'
    """

    name: Literal["shuffled"] = "shuffled"
    seed: Seed = 0

    def change(self, weights: Tensor, tokens: TokenBatch) -> Tensor:
        """-> [N, T], permuted within each response."""
        draws = uniform_draws(tokens, self.seed).masked_fill(~tokens.mask, torch.inf)  # padding stays at the end
        return weights.gather(-1, draws.argsort(dim=-1, stable=True))
