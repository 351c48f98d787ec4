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


_REFERENCE = frozenset({Signal.REF_LOGPS})
_SCORES = MappingProxyType(
    {
        "log_ratio": _Score(lambda tokens, column: tokens.logps.detach() - tokens.ref_logps, requires=_REFERENCE),
        "reference_surprisal": _Score(lambda tokens, column: -tokens.ref_logps, requires=_REFERENCE),
        "column": _Score(lambda tokens, column: tokens.columns[column], reads_column=True),
    }
)


@final
class SelectiveWeighting(TokenWeighting):
    """w_t = 1 on the k = ceil(ratio T) tokens that score highest (chosen) or lowest (rejected), 0 on the others.

    Equal scores go to the earlier token. `score` is "column", numbers of the data in chosen_COLUMN and rejected_COLUMN;
    "log_ratio", log(pi / pi_ref) of the policy as it is, which is the paper's with the policy as its own oracle; or
    "reference_surprisal", -log pi_ref, which is not in the paper.
    Source: SePO (arXiv 2408.13518), its selection by the log-ratio of an oracle that DPO trained: "column".
    """

    name: Literal["selective"] = "selective"
    score: Literal["log_ratio", "reference_surprisal", "column"] = "log_ratio"
    ratio: float = Field(default=0.3, gt=0, le=1)
    column: str = "scores"

    @property
    def requires(self) -> frozenset[Signal]:
        return _SCORES[self.score].requires

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.column)} if _SCORES[self.score].reads_column else ())

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        scores = _SCORES[self.score].compute(tokens, self.column)
        scores = torch.where(tokens.is_chosen[:, None], scores, -scores).masked_fill(~tokens.mask, -torch.inf)
        # Responses stand at the left, so that a token of -inf still comes before the padding.
        ranks = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        # As whole numbers: 0.07 * 100 is more than 7 in floating point, and its ceiling 8.
        part, whole = Fraction(self.ratio).limit_denominator(10**6).as_integer_ratio()
        counts = ((tokens.mask.sum(-1) * part + whole - 1) // whole).clamp(min=1)
        return (tokens.mask & (ranks < counts[:, None])).to(tokens.logps.dtype)


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [SelectiveWeighting]
