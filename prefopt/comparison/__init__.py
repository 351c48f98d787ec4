"""Comparative runs: the tasks that objectives are compared on, and the statistics of the comparison."""

from __future__ import annotations

from prefopt.comparison.registry import TaskError, available_tasks, resolve_task, task_owner
from prefopt.comparison.task import Evaluation, Material, Metric, Task

__all__ = ["Evaluation", "Material", "Metric", "Task", "TaskError", "available_tasks", "resolve_task", "task_owner"]
