"""The tasks and scorers that prefopt brings itself."""

from __future__ import annotations

from prefopt.comparison.code import CodeTask
from prefopt.comparison.dialogue import DialogueTask
from prefopt.comparison.lm_eval import LmEvalTask
from prefopt.comparison.planted import PlantedTask
from prefopt.comparison.scorer import Scorer
from prefopt.comparison.scorers import (
    ClassifierScorer,
    PreferencesScorer,
    ReviewsScorer,
    RewardModelScorer,
    VaderScorer,
    WordsScorer,
)
from prefopt.comparison.sentiment import SentimentTask
from prefopt.comparison.summarization import SummarizationTask
from prefopt.comparison.task import Task
from prefopt.hookspecs import hookimpl


@hookimpl
def prefopt_tasks() -> list[type[Task]]:
    return [CodeTask, DialogueTask, LmEvalTask, PlantedTask, SentimentTask, SummarizationTask]


@hookimpl
def prefopt_scorers() -> list[type[Scorer]]:
    return [ClassifierScorer, PreferencesScorer, ReviewsScorer, RewardModelScorer, VaderScorer, WordsScorer]
