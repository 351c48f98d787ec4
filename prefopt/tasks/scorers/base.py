"""The interface of scorers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from prefopt.component import Named

__all__ = ["Scorer"]


class Scorer(Named):
    """A number for a response to a prompt, the higher the better; its fields are what can be varied of it.

    It is a value like a task, and loads models and data at the first call of `score`. Plugins bring scorers by the hook
    `prefopt_scorers`.
    """

    kind: ClassVar[str] = "scorer"

    @abstractmethod
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """A score for each response, which begins where its prompt ends: space and all.

        The same for the same texts, whatever else they are asked with. Raises ImportError where a library that it
        needs is not installed; the message says how to get it.
        """
