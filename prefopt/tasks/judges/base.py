"""The interface of judges, which decide which of two responses is better, and the judge that compares two scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from pydantic import Field

from prefopt.tasks.scorers.registry import AnyScorer
from prefopt.validation import Settings


class Judge(Settings, ABC):
    """A verdict on two responses to a prompt; its fields are part of what determines a run."""

    @abstractmethod
    def check(self) -> None:
        """Raise where a library or a key is missing; tasks call it before anything is trained."""

    @abstractmethod
    def win_rates(self, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        """For each prompt 1 where our response wins, 0.5 for a tie, 0 where theirs does; the mean over both orders of
        showing them, where an order can matter."""


@final
class ScorerJudge(Judge):
    """1 if s(ours) - s(theirs) > margin, 0 if s(theirs) - s(ours) > margin, else 0.5.

    scorer  s: a scorer by name, or with its fields
    margin  by how much the better one has to be better, in units of the scorer

    >>> ScorerJudge(scorer="words").win_rates(["It was"], [" great"], [" awful"])
    [1.0]
    """

    scorer: AnyScorer
    margin: float = Field(default=0.0, ge=0)

    def check(self) -> None:
        self.scorer.score(["It was"], [" good."])

    def win_rates(self, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        scores = zip(self.scorer.score(prompts, ours), self.scorer.score(prompts, theirs), strict=True)
        return [0.5 + 0.5 * (our - their > self.margin) - 0.5 * (their - our > self.margin) for our, their in scores]
