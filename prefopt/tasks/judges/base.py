"""The interface of judges, which decide which of two responses is better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

__all__ = ["Judge"]


class Judge(BaseModel, ABC):
    """A verdict on two responses to a prompt; its fields are part of what determines a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def check(self) -> None:
        """Raise where a library or a key is missing; tasks call it before anything is trained."""

    @abstractmethod
    def win_rates(self, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        """For each prompt 1 where our response wins, 0.5 for a tie, 0 where theirs does; the mean over both orders of
        showing them, where an order can matter."""
