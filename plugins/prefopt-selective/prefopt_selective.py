"""Selective optimisation, a token weighting for prefopt: only the key tokens of a response count."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt import Column, Signal, TokenBatch, TokenColumn, TokenWeighting, hookimpl

__all__ = ["SelectiveWeighting"]


class _Score(NamedTuple):
    """What tokens are ranked by, from the batch and the column of the data, and what that takes."""

    compute: Callable[[TokenBatch, str], Tensor]
    requires: frozenset[Signal] = frozenset()
    reads_column: bool = False


def _entropy(tokens: TokenBatch, column: str) -> Tensor:
    assert tokens.log_collision is not None
    return -tokens.log_collision


_REFERENCE = frozenset({Signal.REF_LOGPS})
_SCORES = MappingProxyType(
    {
        "log_ratio": _Score(lambda tokens, column: tokens.logps.detach() - tokens.ref_logps, requires=_REFERENCE),
        "reference_surprisal": _Score(lambda tokens, column: -tokens.ref_logps, requires=_REFERENCE),
        "entropy": _Score(_entropy, requires=frozenset({Signal.LOG_COLLISION})),
        "column": _Score(lambda tokens, column: tokens.columns[column], reads_column=True),
    }
)
_SIGNS = MappingProxyType({"chosen": (1, -1), "rejected": (-1, 1), "both": (1, 1)})
"""What scores of the chosen and of the rejected response are multiplied by, for the highest to be kept."""


@final
class SelectiveWeighting(TokenWeighting):
    """w_t = 1 on the k = ceil(ratio T) tokens that score highest (chosen) or lowest (rejected), 0 on the others.

    score    "column", numbers of the data in chosen_COLUMN and rejected_COLUMN; "log_ratio", log(pi / pi_ref) of the
             policy as it is, which is the paper's with the policy as its own oracle; "reference_surprisal",
             -log pi_ref, and "entropy", -log sum_v pi(v)^2 of the policy, which are not in the paper
    highest  the response whose highest scores are kept, the other one's lowest being kept: "chosen", "rejected" or
             "both"
    count    "ceil"; "floor", of at least one token; or "quantile": all tokens that score no lower than the (1 - ratio)
             quantile of their response, interpolated linearly. Under the first two, of equal scores the earlier token's
             goes first, and under the last all of them

    Source: SePO (arXiv 2408.13518), its selection by the log-ratio of an oracle that DPO trained: "column", and, as
    released, "floor". Selective-DPO (arXiv 2507.07725) as released is "log_ratio" with the highest of the rejected
    response, a ratio of 0.4 and "quantile".
    """

    name: Literal["selective"] = "selective"
    score: Literal["log_ratio", "reference_surprisal", "entropy", "column"] = "log_ratio"
    ratio: float = Field(default=0.3, gt=0, le=1)
    column: str = "scores"
    highest: Literal["chosen", "rejected", "both"] = "chosen"
    count: Literal["ceil", "floor", "quantile"] = "ceil"

    @property
    def requires(self) -> frozenset[Signal]:
        return _SCORES[self.score].requires

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.column)} if _SCORES[self.score].reads_column else ())

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        scores = _SCORES[self.score].compute(tokens, self.column)
        of_chosen, of_rejected = _SIGNS[self.highest]
        scores = torch.where(tokens.is_chosen[:, None], of_chosen * scores, of_rejected * scores)
        kept = _COUNTS[self.count](scores.masked_fill(~tokens.mask, -torch.inf), tokens.mask, self.ratio)
        return (tokens.mask & kept).to(tokens.logps.dtype)


def _first(scores: Tensor, mask: Tensor, ratio: float, *, up: bool) -> Tensor:
    # Responses stand at the left, so that a token of -inf still comes before the padding.
    ranks = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    # As whole numbers: 0.07 * 100 is more than 7 in floating point, and its ceiling 8.
    part, whole = Fraction(ratio).limit_denominator(10**6).as_integer_ratio()
    counts = (mask.sum(-1) * part + (whole - 1 if up else 0)) // whole
    return ranks < counts.clamp(min=1)[:, None]


def _ceil(scores: Tensor, mask: Tensor, ratio: float) -> Tensor:
    return _first(scores, mask, ratio, up=True)


def _floor(scores: Tensor, mask: Tensor, ratio: float) -> Tensor:
    return _first(scores, mask, ratio, up=False)


def _quantile(scores: Tensor, mask: Tensor, ratio: float) -> Tensor:
    ordered = scores.sort(dim=-1, descending=True).values
    position = ratio * (mask.sum(-1, keepdim=True) - 1).clamp(min=0).to(scores.dtype)  # from the highest score down
    above = position.floor().long()
    below = (above + 1).clamp(max=scores.shape[1] - 1)
    high, low = ordered.gather(-1, above), ordered.gather(-1, below)
    share = position - above
    return scores >= torch.where(share > 0, high + share * (low - high), high)


_COUNTS: MappingProxyType[str, Callable[[Tensor, Tensor, float], Tensor]] = MappingProxyType(
    {"ceil": _ceil, "floor": _floor, "quantile": _quantile}
)
"""(scores [N, T], -inf off the response, mask [N, T], ratio) -> [N, T] bool, the tokens to keep."""


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [SelectiveWeighting]
