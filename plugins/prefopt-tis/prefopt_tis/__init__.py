"""Importance weights of tokens, a token weighting for prefopt."""

from __future__ import annotations

from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from prefopt import Column, TokenBatch, TokenColumn, TokenWeighting, hookimpl

__all__ = ["TisWeighting"]


@final
class TisWeighting(TokenWeighting):
    """w_t = k exp(m clamp(log(pi+ / pi-)_t, lower, upper)), m = mu in the chosen response, -mu in the rejected one.

    pi+ prefers what is preferred and pi- what is not: their log-ratio stands for the token's reward. Reads it from the
    token column that `column` names, of a row the fields chosen_COLUMN and rejected_COLUMN, which `prefopt-tis` writes;
    a token without a number has the log-ratio 0.
    Source: TIS-DPO (arXiv 2410.04350), its estimate of importance weights. The defaults are this package's.
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
        log_ratios = tokens.columns[self.column].to(tokens.logps.dtype).clamp(self.lower, self.upper)
        towards = torch.where(tokens.is_chosen[:, None], log_ratios, -log_ratios)
        return torch.where(tokens.mask, self.k * (self.mu * towards).exp(), 0)


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [TisWeighting]
