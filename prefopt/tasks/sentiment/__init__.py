"""The sentiment task: continuations of reviews, ranked by one scorer and evaluated by another."""

from prefopt.tasks.sentiment.pairs import Rated as Rated
from prefopt.tasks.sentiment.task import SentimentTask as SentimentTask
