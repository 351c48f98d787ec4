"""Scorers of sentiment by lists of words: plain lists, and VADER."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, final

from pydantic import model_validator

from prefopt.tasks.optional import needed
from prefopt.tasks.scorers.base import Scorer
from prefopt.tasks.scorers.corpus import WORDS
from prefopt.tasks.scorers.word_lists import Lexicon


@final
class WordsScorer(Scorer):
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


@final
class VaderScorer(Scorer):
    """VADER's compound score of the response, from -1 (negative) to 1 (positive). The prompt is not read.

    Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.

    >>> VaderScorer().score(["It was"], [" great."])[0] > 0
    True
    """

    name: Literal["vader"] = "vader"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        analyzer = _analyzer()
        return [float(analyzer.polarity_scores(text)["compound"]) for text in responses]


@functools.lru_cache(maxsize=8)
def _read(file: str) -> Lexicon:
    return Lexicon.load(Path(file))


@functools.cache
def _analyzer() -> Any:
    with needed("scorer vader", "vaderSentiment", "scorers"):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    return SentimentIntensityAnalyzer()
