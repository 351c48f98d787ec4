"""Tasks that objectives are compared on, with the scorers and judges that measure policies."""

from __future__ import annotations

from prefopt.tasks.annotated import AnnotatedTask
from prefopt.tasks.base import Evaluation, Material, Metric, Task
from prefopt.tasks.registry import AnyTask, TaskError, available_tasks, resolve_task
from prefopt.tasks.scorers.base import Scorer
from prefopt.tasks.scorers.registry import AnyScorer, ScorerError, available_scorers, resolve_scorer

__all__ = [
    "AnnotatedTask",
    "AnyScorer",
    "AnyTask",
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
]
