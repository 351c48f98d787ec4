"""The interface of scorers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from prefopt.component import Named


class Scorer(Named):
    """A number for a response to a prompt, the higher the better; its fields are what can be varied of it.

    It is a value like a task, and loads models and data at the first call of `score`. Plugins bring scorers by the hook
    `prefopt_scorers`.
    """

    kind: ClassVar[str] = "scorer"
    hook: ClassVar[str] = "prefopt_scorers"

    @abstractmethod
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """A score for each response, which begins where its prompt ends, space included.

        The score of a text does not depend on the other texts of the call. Raises ImportError where a library is not
        installed, with what to install.
        """
