"""Finds tasks: the built-in ones and those of installed plugins, through the same hook."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import final

from prefopt.hookspecs import TASKS
from prefopt.plugins import plugin_manager
from prefopt.registry import Owner, brought, resolve_named
from prefopt.tasks import built_ins
from prefopt.tasks.base import Task

__all__ = ["TaskError", "available_tasks", "installed_tasks", "resolve_task", "task_owner"]


_PACKAGES: Mapping[object, str] = {"code": "prefopt-code"}
"""Our tasks that are installed apart -> the package that brings them."""


@final
class TaskError(ValueError):
    """No task of that name, or one that does not accept its fields."""


@functools.cache
def installed_tasks() -> Mapping[str, tuple[type[Task], Owner]]:
    """The installed tasks and their owners, by name."""
    return brought(plugin_manager((built_ins,)), TASKS, Task)  # type: ignore[type-abstract]


def available_tasks() -> Mapping[str, type[Task]]:
    """The installed tasks, by name."""
    return {name: cls for name, (cls, _) in installed_tasks().items()}


def task_owner(name: str) -> Owner:
    """Who brings the task of that name."""
    return installed_tasks()[name][1]


def resolve_task(value: object) -> Task:
    """A task from its name, from a mapping with `name` and fields, or from a task itself.

    Raises TaskError with the nearest right name where there is none so called, or where a field does not fit.
    """
    name = value.get("name") if isinstance(value, Mapping) else value
    if name in _PACKAGES and name not in available_tasks():
        raise TaskError(f"the task {name!r} is brought by {_PACKAGES[name]}: pip install {_PACKAGES[name]}")
    return resolve_named(Task, value, available_tasks, TaskError)  # type: ignore[type-abstract]
