"""VADER: a list of rated words, and rules for negation, degree, capitals and punctuation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, final

from prefopt.tasks.optional import needed
from prefopt.tasks.scorers.base import Scorer

__all__ = ["VaderScorer"]


@final
class VaderScorer(Scorer):
    """VADER's compound score of the response, from -1 (negative) to 1 (positive). The prompt is not read.

    Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.
    """

    name: Literal["vader"] = "vader"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        analyzer = _analyzer()
        return [float(analyzer.polarity_scores(text)["compound"]) for text in responses]


@functools.cache
def _analyzer() -> Any:
    with needed("scorer vader", "vaderSentiment", "scorers"):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    return SentimentIntensityAnalyzer()
