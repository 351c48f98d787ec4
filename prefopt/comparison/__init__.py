"""Comparative runs: the tasks that objectives are compared on, and the statistics of the comparison."""

from __future__ import annotations

from prefopt.comparison.registry import (
    AnyScorer,
    ScorerError,
    TaskError,
    available_scorers,
    available_tasks,
    resolve_scorer,
    resolve_task,
    task_owner,
)
from prefopt.comparison.scorer import Scorer
from prefopt.comparison.task import Evaluation, Material, Metric, Task

__all__ = [
    "AnyScorer",
    "Evaluation",
    "Material",
    "Metric",
    "Scorer",
    "ScorerError",
    "Task",
    "TaskError",
    "available_scorers",
    "available_tasks",
    "resolve_scorer",
    "resolve_task",
    "task_owner",
]
