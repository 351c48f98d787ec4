"""Scorers of responses: word lists, classifiers and reward models."""

from __future__ import annotations

from prefopt.comparison.scorer import Scorer
from prefopt.comparison.scorers.classifier import ClassifierScorer
from prefopt.comparison.scorers.preferences import PreferencesScorer
from prefopt.comparison.scorers.reviews import ReviewsScorer
from prefopt.comparison.scorers.reward_model import RewardModelScorer
from prefopt.comparison.scorers.vader import VaderScorer
from prefopt.comparison.scorers.words import WordsScorer

__all__ = [
    "ClassifierScorer",
    "PreferencesScorer",
    "ReviewsScorer",
    "RewardModelScorer",
    "Scorer",
    "VaderScorer",
    "WordsScorer",
]
