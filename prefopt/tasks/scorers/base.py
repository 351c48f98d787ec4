"""The interface of scorers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

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


class Span(NamedTuple):
    """Characters of a response, from `start` to before `end`, and what they add to its score."""

    start: int
    end: int
    value: float


class LexicalScorer(Scorer):
    """A scorer whose scores come from words that it lists, so that the tokens that matter are known."""

    @abstractmethod
    def spans(self, response: str) -> list[Span]:
        """The listed words of the response, in order."""

    def marks(self, tokens: Sequence[str]) -> list[bool]:
        """Whether a token, given as text, has a letter of a listed word; `"".join(tokens)` is the response."""
        spans, marks, position = self.spans("".join(tokens)), [], 0
        for token in tokens:
            end = position + len(token)
            start = end - len(token.lstrip())
            marks.append(any(span.start < end and start < span.end for span in spans))
            position = end
        return marks
