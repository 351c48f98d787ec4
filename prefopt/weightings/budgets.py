"""Budgets: how much all tokens of a response weigh together, whatever decides which of them do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from prefopt.component import Signal
from prefopt.tokens import TokenBatch, masked_mean, masked_sum
from prefopt.weightings.composed import ComposedWeighting

BudgetName = Literal["mean_one", "sum_one", "selected_mean", "pair_min", "reward_match"]
Rescale = Callable[[Tensor, TokenBatch], Tensor]
"""(weights [N, T], 0 off the response, TokenBatch) -> [N, T]."""

_MOST = 10.0
"""The farthest that reward_match goes from mean_one: a factor of so much, or one over so much."""


def mean_one(weights: Tensor, tokens: TokenBatch) -> Tensor:
    """weights [N, T], 0 off the response -> [N, T], over their mean; rows that are all zero stay so."""
    mean = masked_mean(weights, tokens.mask)
    return weights / torch.where(mean > 0, mean, 1)[:, None]


def _sum_one(weights: Tensor, tokens: TokenBatch) -> Tensor:
    total = masked_sum(weights, tokens.mask)
    return weights / torch.where(total > 0, total, 1)[:, None]


def _selected_mean(weights: Tensor, tokens: TokenBatch) -> Tensor:
    length, selected = tokens.mask.sum(-1).to(weights.dtype), (weights > 0).sum(-1).clamp(min=1)
    return weights * (length / selected)[:, None]


def _pair_min(weights: Tensor, tokens: TokenBatch) -> Tensor:
    return _sum_one(weights, tokens) * shorter(tokens)[:, None].to(weights.dtype)


def _reward_match(weights: Tensor, tokens: TokenBatch) -> Tensor:
    weights = mean_one(weights, tokens)
    with torch.no_grad():
        log_ratios = torch.where(tokens.mask, tokens.logps - tokens.ref_logps, 0)
        weighted = masked_sum(weights * log_ratios, tokens.mask)
        ratio = masked_sum(log_ratios, tokens.mask) / torch.where(weighted == 0, 1, weighted)
        factor = torch.where(ratio > 0, ratio.clamp(1 / _MOST, _MOST), 1)
    return weights * factor[:, None]


def shorter(tokens: TokenBatch) -> Tensor:
    """[N], the length of the shorter response of each one's pair."""
    chosen, rejected = tokens.mask.sum(-1).chunk(2)
    return torch.minimum(chosen, rejected).repeat(2)


class _Budget(NamedTuple):
    rescale: Rescale
    requires: frozenset[Signal] = frozenset()


_BUDGETS: Mapping[str, _Budget] = MappingProxyType(
    {
        "mean_one": _Budget(mean_one),
        "sum_one": _Budget(_sum_one),
        "selected_mean": _Budget(_selected_mean),
        "pair_min": _Budget(_pair_min),
        "reward_match": _Budget(_reward_match, requires=frozenset({Signal.REF_LOGPS})),
    }
)


@final
class ScaledWeighting(ComposedWeighting):
    """w_t = c w'_t, w' another weighting's weights and c a number for each response, which gives them a budget.

    to             the budget
    mean_one       sum_t w_t = T, the response's length
    sum_one        sum_t w_t = 1
    selected_mean  c = T / number of t with w'_t > 0: under the shaping `mean`, a mean over the tokens selected
    pair_min       sum_t w_t = b, the length of the pair's shorter response
    reward_match   sum_t w_t l_t = sum_t l_t, l = log(pi / pi_ref), without gradient through c. Where the two sums that
                   it compares differ in sign or by more than tenfold, mean_one, or ten times or a tenth of that

    A response whose weights are all zero keeps them. Where w' learns, its gradient takes in the normaliser of mean_one,
    sum_one and pair_min: what one token gains others lose. Penalties of w' are as they were.
    Source: this package. pair_min are the budgets of OTPO (arXiv 2505.18720), selected_mean that of SePO
    (arXiv 2408.13518); a reward that is matched to the unweighted one, without these bounds, is in the code of
    upb-nlp/Weighted-DPO-Supplementary.

    >>> from prefopt import TokenWeighting, resolve
    >>> resolve(TokenWeighting, {"name": "scaled", "weighting": "uniform", "to": "pair_min"}).weighting.value
    1.0
    """

    name: Literal["scaled"] = "scaled"
    to: BudgetName

    @property
    def requires(self) -> frozenset[Signal]:
        return self.weighting.requires | _BUDGETS[self.to].requires

    def change(self, weights: Tensor, tokens: TokenBatch) -> Tensor:
        """-> [N, T], within the budget."""
        return _BUDGETS[self.to].rescale(weights, tokens)
