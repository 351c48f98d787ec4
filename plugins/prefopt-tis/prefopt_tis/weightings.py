"""Token weightings from what two models said of the responses before the training, read from a column of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from prefopt import Column, TokenBatch, TokenColumn, TokenWeighting

__all__ = ["ContrastWeighting", "GuidedWeighting", "TisRankWeighting", "TisScaleWeighting", "TisWeighting"]


def _read(tokens: TokenBatch, column: str) -> Tensor:
    """[N, T], 0 off the response."""
    return torch.where(tokens.mask, tokens.columns[column].to(tokens.logps.dtype), 0)


def _towards(tokens: TokenBatch, column: str) -> Tensor:
    """How much a token speaks for the preference, [N, T]: the number in the chosen response, less it in the rejected
    one."""
    numbers = _read(tokens, column)
    return torch.where(tokens.is_chosen[:, None], numbers, -numbers)


@final
class TisWeighting(TokenWeighting):
    """w_t = k exp(m clamp(log(pi+ / pi-)_t, lower, upper)), m = mu in the chosen response, -mu in the rejected one.

    pi+ prefers what is preferred and pi- what is not: their log-ratio stands for the token's reward. Reads it from the
    token column that `column` names, of a row the fields chosen_COLUMN and rejected_COLUMN, which
    `prefopt-score-tokens` writes; a token without a number has the log-ratio 0.
    Source: TIS-DPO (arXiv 2410.04350), its estimate of importance weights. The defaults are this package's; what its
    code does instead is `tis_rank` and `tis_scale`.
    """

    name: Literal["tis"] = "tis"
    k: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    mu: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    lower: float = Field(default=-0.5, allow_inf_nan=False)
    upper: float = Field(default=1.5, allow_inf_nan=False)
    column: str = "log_ratios"

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.lower > self.upper:
            raise ValueError(f"lower is {self.lower:g}, above upper, which is {self.upper:g}; exchange the two")
        return self

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.column)})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        log_ratios = _read(tokens, self.column).clamp(self.lower, self.upper)
        towards = torch.where(tokens.is_chosen[:, None], log_ratios, -log_ratios)
        return torch.where(tokens.mask, self.k * (self.mu * towards).exp(), 0)


class _ReleasedWeighting(TokenWeighting, ABC):
    """Weights from `low` to `high` of all tokens but the last one of a response, which has none."""

    low: float = Field(default=0.7, ge=0, allow_inf_nan=False)
    high: float = Field(default=1.3, ge=0, allow_inf_nan=False)
    column: str = "log_ratios"

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g}, above high, which is {self.high:g}; exchange the two")
        return self

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.column)})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        steps = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
        weighed = tokens.mask & (steps < tokens.mask.sum(-1, keepdim=True) - 1)
        scores = _towards(tokens, self.column).round(decimals=2)
        return torch.where(weighed, self._weights(scores, weighed), 0)

    @abstractmethod
    def _weights(self, scores: Tensor, weighed: Tensor) -> Tensor:
        """scores [N, T], weighed [N, T] bool -> [N, T]."""


@final
class TisRankWeighting(_ReleasedWeighting):
    """w_t = low + (high - low) rank_t / (n - 1), rank_t = 0 .. n - 1 of log(pi+ / pi-)_t in the chosen response, of
    -log(pi+ / pi-)_t in the rejected one.

    Ranks are of the log-ratios rounded to two decimals; of equal ones the earlier token's is lower. They are of the n
    tokens before the last one, which is the end of text and has weight 0; one token alone before it has weight 1.
    Source: the code of TIS-DPO (arXiv 2410.04350), its method `rank_based`, which has neither the exponential nor the
    constants of the paper.
    """

    name: Literal["tis_rank"] = "tis_rank"

    def _weights(self, scores: Tensor, weighed: Tensor) -> Tensor:
        ranks = scores.masked_fill(~weighed, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
        number = weighed.sum(-1, keepdim=True)
        share = ranks.to(scores.dtype) / (number - 1).clamp(min=1)
        return torch.where(number == 1, 1, self.low + (self.high - self.low) * share)


@final
class TisScaleWeighting(_ReleasedWeighting):
    """w_t = low + (high - low) (clamp(s_t, -bound, bound) + bound) / (2 bound), s_t = log(pi+ / pi-)_t in the chosen
    response, -log(pi+ / pi-)_t in the rejected one.

    Log-ratios are rounded to two decimals, and the last token, the end of text, has weight 0. Source: the code of
    TIS-DPO (arXiv 2410.04350), its method `threshold_and_scale` and its default bounds.
    """

    name: Literal["tis_scale"] = "tis_scale"
    bound: float = Field(default=1.5, gt=0, allow_inf_nan=False)

    def _weights(self, scores: Tensor, weighed: Tensor) -> Tensor:
        share = (scores.clamp(-self.bound, self.bound) + self.bound) / (2 * self.bound)
        return self.low + (self.high - self.low) * share


@final
class GuidedWeighting(TokenWeighting):
    """w_t = max(0, 1 + s alpha beta log(pi^ / pi_ref)_t), s = 1 in the chosen response, -1 in the rejected one.

    pi^ is a model that was trained on preferences before, as by DPO: its reward of a token guides how much the token
    counts. Reads the log-ratio from the token column that `column` names, which `prefopt-score-tokens` writes with
    pi^ as the positive and the reference as the negative model. `beta` is that of the reward, in the paper the
    objective's.
    Source: TGDPO (arXiv 2506.14574), whose paper wants alpha small enough for w to be positive and whose code lets w be
    negative; a weight here is 0 then. alpha 0.5 and beta 0.1 are those of its example.
    """

    name: Literal["guided"] = "guided"
    alpha: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    column: str = "log_ratios"

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.column)})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        weights = 1 + self.alpha * self.beta * _towards(tokens, self.column)
        return torch.where(tokens.mask, weights.clamp(min=0), 0)


@final
class ContrastWeighting(TokenWeighting):
    """w_t = 1 in the chosen response, 1 - s_t in the rejected one, s_t between 0 and 1.

    s is how likely y_t is under the contrast of a model of right responses with one of wrong ones, proportional to
    pi+^(1 + b) / pi-^b: a token that only the wrong ones say is critical and counts whole. Reads s from the token
    column that `column` names, which `prefopt-score-tokens --contrast b` writes; a token without a number has s 0.
    Source: cDPO (arXiv 2411.19943) as written, with b 1. Its code takes the loss of every position apart instead.
    """

    name: Literal["contrast"] = "contrast"
    column: str = "likelihoods"

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.column, at_least=0.0)})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        likelihoods = torch.where(tokens.is_chosen[:, None], 0, _read(tokens, self.column))
        return torch.where(tokens.mask, (1 - likelihoods).clamp(min=0), 0)
