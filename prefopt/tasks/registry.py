"""The registry of tasks: the built-in ones and those of installed plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, final

from pydantic import BeforeValidator, SerializeAsAny

from prefopt.registry import Registry
from prefopt.tasks import built_ins
from prefopt.tasks.base import Task

_PACKAGES: Mapping[object, str] = {"code": "prefopt-code", "marked": "prefopt-lexicon", "scored": "prefopt-tis"}
"""Our tasks that are installed apart -> the package that brings them."""


@final
class TaskError(ValueError):
    """No task of that name, or one that does not accept its fields."""


TASKS: Registry[Task] = Registry(Task, (built_ins,), TaskError)  # type: ignore[type-abstract]

available_tasks = TASKS.available


def resolve_task(value: object) -> Task:
    """A task: `Registry.resolve`. Raises TaskError."""
    name = value.get("name") if isinstance(value, Mapping) else value
    if isinstance(name, str) and name in _PACKAGES and name not in available_tasks():
        raise TaskError(f"the task {name!r} is brought by {_PACKAGES[name]}: pip install {_PACKAGES[name]}")
    return TASKS.resolve(value)


AnyTask = Annotated[SerializeAsAny[Task], BeforeValidator(resolve_task)]
"""The type of a field that holds a task."""
