"""The sentiment task: reviews that go on the better way, ranked by one scorer and judged by another."""

from __future__ import annotations

from prefopt.tasks.sentiment.rated import Rated
from prefopt.tasks.sentiment.task import SentimentTask

__all__ = ["Rated", "SentimentTask"]
