"""The sentiment task: continuations of reviews, ranked by one scorer and evaluated by another."""

from __future__ import annotations

from prefopt.tasks.sentiment.pairs import Rated
from prefopt.tasks.sentiment.task import SentimentTask

__all__ = ["Rated", "SentimentTask"]
