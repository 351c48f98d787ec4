"""A judge that compares two scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from pydantic import Field

from prefopt.tasks.judges.base import Judge
from prefopt.tasks.scorers.registry import AnyScorer

__all__ = ["ScorerJudge"]


@final
class ScorerJudge(Judge):
    """1 if s(ours) - s(theirs) > margin, 0 if s(theirs) - s(ours) > margin, else 0.5.

    scorer  s: a scorer by name, or with its fields
    margin  by how much the better one has to be better, in units of the scorer
    """

    scorer: AnyScorer
    margin: float = Field(default=0.0, ge=0)

    def check(self) -> None:
        self.scorer.score(["It was"], [" good."])

    def win_rates(self, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        scores = zip(self.scorer.score(prompts, ours), self.scorer.score(prompts, theirs), strict=True)
        return [0.5 + 0.5 * (our - their > self.margin) - 0.5 * (their - our > self.margin) for our, their in scores]
