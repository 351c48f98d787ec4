"""Weights that come with the data."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.columns import Column, TokenColumn
from prefopt.component import TokenWeighting
from prefopt.tokens import TokenBatch


@final
class ColumnWeighting(TokenWeighting):
    """w_t = the number that the data gives for y_t, `default` where it gives none.

    Reads the token column that `column` names, numbers >= 0: of a row, its fields chosen_COLUMN and rejected_COLUMN.
    Source: importance weights per token, as TIS-DPO (arXiv 2410.04350) estimates them before training.

    >>> [column.name for column in ColumnWeighting(column="votes").columns]
    ['votes']
    """

    name: Literal["column"] = "column"
    column: str = "weights"
    default: float = Field(default=1.0, ge=0)

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.column, default=self.default, at_least=0.0)})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return torch.where(tokens.mask, tokens.columns[self.column].to(tokens.logps.dtype), 0)
