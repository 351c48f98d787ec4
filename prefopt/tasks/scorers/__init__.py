"""Scorers of responses: word lists, classifiers and reward models."""

from __future__ import annotations

from prefopt.hookspecs import hookimpl
from prefopt.tasks.scorers.base import Scorer
from prefopt.tasks.scorers.linear import PreferencesScorer, ReviewsScorer
from prefopt.tasks.scorers.sequence_classification import ClassifierScorer, RewardModelScorer
from prefopt.tasks.scorers.words import VaderScorer, WordsScorer

__all__ = [
    "ClassifierScorer",
    "PreferencesScorer",
    "ReviewsScorer",
    "RewardModelScorer",
    "Scorer",
    "VaderScorer",
    "WordsScorer",
]


@hookimpl
def prefopt_scorers() -> list[type[Scorer]]:
    return [ClassifierScorer, PreferencesScorer, ReviewsScorer, RewardModelScorer, VaderScorer, WordsScorer]
