"""The tasks that prefopt brings itself."""

from __future__ import annotations

from prefopt.hookspecs import hookimpl
from prefopt.tasks.base import Task
from prefopt.tasks.dialogue import DialogueTask
from prefopt.tasks.lm_eval import LmEvalTask
from prefopt.tasks.planted import PlantedTask
from prefopt.tasks.sentiment import SentimentTask
from prefopt.tasks.summarization import SummarizationTask


@hookimpl
def prefopt_tasks() -> list[type[Task]]:
    return [DialogueTask, LmEvalTask, PlantedTask, SentimentTask, SummarizationTask]
