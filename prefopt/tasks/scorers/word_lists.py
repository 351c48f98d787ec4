"""A list of positive and negative words, and how far a text leans to the positive ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from prefopt.validation import explain

__all__ = ["Lexicon"]

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class Lexicon(BaseModel):
    """Positive and negative words, in lower case.

    score(text) = (positive - negative) / (positive + negative), of the words that occur; 0 where none does. It lies in
    [-1, 1] and does not grow with length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    positive: frozenset[str]
    negative: frozenset[str]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `{"positive": [...], "negative": [...]}` from a YAML or JSON file. Raises ValueError on any other
        content."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as error:
            raise ValueError(f"words: {path} is neither YAML nor JSON: {error}") from error
        except ValidationError as error:
            lines = "\n".join(f"words: {path}: {line}" for line in explain(error, cls))
            raise ValueError(lines) from error

    @field_validator("positive", "negative", mode="after")
    @classmethod
    def _lower_case_words(cls, words: frozenset[str]) -> frozenset[str]:
        if unusable := sorted(word for word in words if not _WORD.fullmatch(word)):
            raise ValueError(f"each entry must be one word, but {unusable[0]!r} is not")
        if not words:
            raise ValueError("the list is empty; name at least one word")
        return frozenset(word.lower() for word in words)

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := sorted(self.positive & self.negative):
            raise ValueError(f"{both[0]!r} is both positive and negative")
        return self

    def score(self, text: str) -> float:
        """How far the text leans to positive words, in [-1, 1]."""
        signs = [sign for _, _, sign in self.found(text) if sign]
        return sum(signs) / len(signs) if signs else 0.0

    def found(self, text: str) -> list[tuple[int, int, int]]:
        """(start, end, sign) of every word of the text; sign is +1, -1 or, for a word that is in neither list, 0."""
        return [(match.start(), match.end(), self.sign(match.group())) for match in _WORD.finditer(text)]

    def sign(self, word: str) -> int:
        """+1, -1 or 0."""
        word = word.lower()
        return (word in self.positive) - (word in self.negative)
