"""Weights by how sure the policy is of a token, or of what comes at its position."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from prefopt.component import Signal, TokenWeighting
from prefopt.tokens import TokenBatch, masked_mean


@final
class LowConfidenceWeighting(TokenWeighting):
    """w_t = 1 where p_t < mean_t p_t, else 0, with p_t = pi(y_t): the tokens that the policy finds unlikelier than the
    response's average.

    The mean is that of probabilities, over the response, under the policy as it is; no gradient passes. Where one
    response of a pair has no such token, as where all of its tokens are equally likely, both have weights of zero.
    Source: ConfPO (arXiv 2506.08712) as released, which takes the mean over the tokens selected: `scaled` to
    `selected_mean`, under the shaping `mean`.

    >>> LowConfidenceWeighting().name
    'low_confidence'
    """

    name: Literal["low_confidence"] = "low_confidence"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        chances = torch.where(tokens.mask, tokens.logps.detach(), -torch.inf).exp()
        lowest = torch.where(tokens.mask, chances, 1).amin(-1, keepdim=True)
        above = torch.where(tokens.mask, chances - lowest, 0)  # exactly 0 where all are equal, whatever their mean is
        selected = tokens.mask & (above < masked_mean(above, tokens.mask)[:, None])
        of_both = selected.any(-1).view(2, -1).all(0).repeat(2)
        return (selected & of_both[:, None]).to(tokens.logps.dtype)


@final
class EntropyWeighting(TokenWeighting):
    """w_t = -log sum_v pi(v)^2, v over the vocabulary: the Renyi entropy of order 2, in nats, of the policy where y_t
    is predicted.

    Tokens where the policy has a choice count more; where it is certain they count nothing. No gradient passes.
    `scaled` to `mean_one` keeps beta's meaning. Source: this package; that few tokens of high entropy carry what is
    learned is a finding of reinforcement learning (arXiv 2506.01939), by Shannon's entropy.

    >>> sorted(EntropyWeighting().requires)
    [<Signal.LOG_COLLISION: 'log_collision'>]
    """

    name: Literal["entropy"] = "entropy"

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({Signal.LOG_COLLISION})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """Reads log_collision [N, T] -> [N, T]."""
        assert tokens.log_collision is not None
        return torch.where(tokens.mask, (-tokens.log_collision).clamp(min=0), 0)
