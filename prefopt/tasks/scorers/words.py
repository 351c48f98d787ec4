"""Scorers of sentiment by lists of words: plain lists, and VADER."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, final

import yaml
from pydantic import ValidationError, field_validator, model_validator

from prefopt.tasks.optional import needed
from prefopt.tasks.scorers.base import LexicalScorer, Span
from prefopt.tasks.scorers.corpus import sentiment_words
from prefopt.validation import Settings, explain

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class Lexicon(Settings):
    """Positive and negative words; case does not matter.

    score(text) = (positive - negative) / (positive + negative) over the listed words of the text, in [-1, 1]; 0 if
    there is none.

    >>> Lexicon(positive={"good"}, negative={"bad"}).score("Good, good, bad")
    0.3333333333333333
    """

    positive: frozenset[str]
    negative: frozenset[str]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `{"positive": [...], "negative": [...]}` from YAML or JSON. Raises ValueError for other content."""
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
        """The net share of positive words, in [-1, 1]."""
        signs = [span.value for span in self.spans(text)]
        return sum(signs) / len(signs) if signs else 0.0

    def spans(self, text: str) -> list[Span]:
        """Every listed word of the text; its value is +1 or -1."""
        return [
            Span(*characters, 1.0 if word in self.positive else -1.0)
            for word, characters in _words(text)
            if self._lists(word)
        ]

    def _lists(self, word: str) -> bool:
        return word in self.positive or word in self.negative


WORDS = Lexicon(positive=sentiment_words(1), negative=sentiment_words(-1))
"""The sentiment words of the generated corpus."""


@final
class WordsScorer(LexicalScorer):
    """(positive - negative) / (positive + negative) of the listed words in the response, in [-1, 1]; 0 where none
    occurs. The prompt is not read.

    file                a YAML or JSON file {"positive": [...], "negative": [...]}
    positive, negative  the words themselves, in the place of a file. Without either: all that take a side in the
                        generated corpus

    >>> WordsScorer(positive=["good"], negative=["dull"]).score(["It was"], [" good, but dull and dull"])
    [-0.3333333333333333]
    """

    name: Literal["words"] = "words"
    file: str | None = None
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.file is not None and (self.positive or self.negative):
            raise ValueError("`file` is set, and so are words; leave one of them out")
        if self.file is None and (self.positive or self.negative):
            Lexicon(positive=frozenset(self.positive), negative=frozenset(self.negative))
        return self

    @property
    def lexicon(self) -> Lexicon:
        """The words. Raises ValueError, or OSError, where the file cannot be used."""
        if self.file is not None:
            return _read(self.file)
        if self.positive:
            return Lexicon(positive=frozenset(self.positive), negative=frozenset(self.negative))
        return WORDS

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        lexicon = self.lexicon
        return [lexicon.score(text) for text in responses]

    def spans(self, response: str) -> list[Span]:
        return self.lexicon.spans(response)


@final
class VaderScorer(LexicalScorer):
    """VADER's compound score of the response, from -1 (negative) to 1 (positive). The prompt is not read.

    Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.

    >>> VaderScorer().score(["It was"], [" great."])[0] > 0
    True
    """

    name: Literal["vader"] = "vader"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        analyzer = _analyzer()
        return [float(analyzer.polarity_scores(text)["compound"]) for text in responses]

    def spans(self, response: str) -> list[Span]:
        """Words of VADER's lexicon with their valence, -4 to 4; what turns or strengthens them is not among them."""
        valences = _analyzer().lexicon
        return [Span(*characters, float(valences[word])) for word, characters in _words(response) if word in valences]


def _words(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The words of a text in lower case, and their (start, end) in characters."""
    return ((match.group().lower(), match.span()) for match in _WORD.finditer(text))


@functools.lru_cache(maxsize=8)
def _read(file: str) -> Lexicon:
    return Lexicon.load(Path(file))


@functools.cache
def _analyzer() -> Any:
    with needed("scorer vader", "vaderSentiment", "scorers"):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    return SentimentIntensityAnalyzer()
