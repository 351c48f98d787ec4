"""A lexicon, a token weighting for prefopt: the tokens of given words count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt import Column, TokenBatch, TokenColumn, TokenWeighting, hookimpl

if TYPE_CHECKING:
    from prefopt.tasks import Task

__all__ = ["LexiconWeighting"]


@final
class LexiconWeighting(TokenWeighting):
    """w_t = inside where y_t is of a word that the data marks, outside elsewhere.

    Reads the token column that `column` names, positive where a token is marked: of a row, its fields chosen_COLUMN and
    rejected_COLUMN, which `prefopt-lexicon` writes.
    Source: this package.
    """

    name: Literal["lexicon"] = "lexicon"
    inside: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    outside: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    column: str = "lexicon"

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.column)})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        inside, outside = tokens.logps.new_tensor([self.inside, self.outside])
        weights = torch.where(tokens.columns[self.column] > 0, inside, outside)
        return torch.where(tokens.mask, weights, 0)


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [LexiconWeighting]


@hookimpl
def prefopt_tasks() -> list[type[Task]]:
    from prefopt_lexicon.task import MarkedTask  # loads transformers, which the weighting does without

    return [MarkedTask]
