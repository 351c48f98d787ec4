"""Finds tasks: the built-in ones and those of installed plugins, through the same hook."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import final

from pydantic import ValidationError

from prefopt.comparison import built_ins
from prefopt.comparison.task import Task
from prefopt.hookspecs import TASKS
from prefopt.plugins import plugin_manager
from prefopt.registry import Owner, brought
from prefopt.validation import did_you_mean, explain

__all__ = ["TaskError", "available_tasks", "resolve_task", "task_owner"]


@final
class TaskError(ValueError):
    """No task of that name, or one that does not accept its fields."""


def available_tasks() -> Mapping[str, type[Task]]:
    """The installed tasks, by name."""
    return {name: cls for name, (cls, _) in _tasks().items()}


def task_owner(name: str) -> Owner:
    """Who brings the task of that name."""
    return _tasks()[name][1]


def resolve_task(value: object) -> Task:
    """A task from its name, from a mapping with `name` and fields, or from a task itself.

    Raises TaskError with the nearest right name where there is none so called, or where a field does not fit.
    """
    if isinstance(value, Task):
        return value
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise TaskError(
            f"a task is given by name, by a mapping with 'name' and its fields, or as a Task; got {value!r}"
        )
    known, name = available_tasks(), fields["name"]
    if name not in known:
        raise TaskError(f"no Task named {name!r}.{did_you_mean(name, known)} Installed: {', '.join(sorted(known))}.")
    try:
        return known[name].model_validate(fields)
    except ValidationError as error:
        raise TaskError(f"{name}: {' '.join(explain(error, known[name]))}") from error


@functools.cache
def _tasks() -> Mapping[str, tuple[type[Task], Owner]]:
    # A manager of its own: the built-in tasks train models, so they are defined above the registry of components.
    return brought(plugin_manager((built_ins,)), TASKS, Task)  # type: ignore[type-abstract]
