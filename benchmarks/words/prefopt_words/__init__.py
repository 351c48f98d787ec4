"""Do masks find the words that carry sentiment? A task for prefopt's comparisons."""

from __future__ import annotations

from prefopt import hookimpl
from prefopt.tasks.base import Task
from prefopt_words.task import WordsTask

__all__ = ["WordsTask", "prefopt_tasks"]


@hookimpl
def prefopt_tasks() -> list[type[Task]]:
    return [WordsTask]
