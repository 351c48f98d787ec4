"""Finds tasks and scorers: the built-in ones and those of installed plugins, through the same hooks."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, TypeVar, cast, final

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from prefopt.comparison.scorer import Scorer
from prefopt.comparison.task import Task
from prefopt.component import Named
from prefopt.hookspecs import SCORERS, TASKS
from prefopt.plugins import plugin_manager
from prefopt.registry import Owner, brought
from prefopt.validation import did_you_mean, explain

__all__ = [
    "KINDS",
    "AnyScorer",
    "ScorerError",
    "TaskError",
    "available_scorers",
    "available_tasks",
    "listed",
    "resolve_scorer",
    "resolve_task",
    "task_owner",
]

N = TypeVar("N", bound=Named)


@final
class TaskError(ValueError):
    """No task of that name, or one that does not accept its fields."""


@final
class ScorerError(ValueError):
    """No scorer of that name, or one that does not accept its fields."""


KINDS: Mapping[type[Named], str] = MappingProxyType({Task: TASKS, Scorer: SCORERS})
"""What is found here, and the hook that brings it."""


def available_tasks() -> Mapping[str, type[Task]]:
    """The installed tasks, by name."""
    return _available(Task)  # type: ignore[type-abstract]


def available_scorers() -> Mapping[str, type[Scorer]]:
    """The installed scorers, by name."""
    return _available(Scorer)  # type: ignore[type-abstract]


def task_owner(name: str) -> Owner:
    """Who brings the task of that name."""
    return _brought(Task)[name][1]


def listed() -> Iterator[tuple[type[Named], Owner]]:
    """Every installed task and scorer with its owner, kind by kind, then by name."""
    for kind in KINDS:
        for _, entry in sorted(_brought(kind).items()):
            yield entry


def resolve_task(value: object) -> Task:
    """A task from its name, from a mapping with `name` and fields, or from a task itself.

    Raises TaskError with the nearest right name where there is none so called, or where a field does not fit.
    """
    return _resolve(Task, value, TaskError)  # type: ignore[type-abstract]


def resolve_scorer(value: object) -> Scorer:
    """A scorer from its name, from a mapping with `name` and fields, or from a scorer itself.

    Raises ScorerError with the nearest right name where there is none so called, or where a field does not fit.
    """
    return _resolve(Scorer, value, ScorerError)  # type: ignore[type-abstract]


AnyScorer = Annotated[SerializeAsAny[Scorer], BeforeValidator(resolve_scorer)]
"""The type of a field that takes what `resolve_scorer` does."""


def _available(kind: type[N]) -> Mapping[str, type[N]]:
    return {name: cast("type[N]", cls) for name, (cls, _) in _brought(kind).items()}


def _resolve(kind: type[N], value: object, error: type[ValueError]) -> N:
    if isinstance(value, kind):
        return value
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise error(
            f"a {kind.kind} is given by name, by a mapping with 'name' and its fields, or as a {kind.__name__}; "
            f"got {value!r}"
        )
    known, name = _available(kind), fields["name"]
    if name not in known:
        raise error(
            f"no {kind.__name__} named {name!r}.{did_you_mean(name, known)} Installed: {', '.join(sorted(known))}."
        )
    try:
        return known[name].model_validate(fields)
    except ValidationError as problem:
        raise error(f"{name}: {' '.join(explain(problem, known[name]))}") from problem


@functools.cache
def _brought(kind: type[Named]) -> Mapping[str, tuple[type[Named], Owner]]:
    # Imported here, as built-in tasks have fields that are resolved by this module. A manager of its own: they train
    # models, so they are defined above the registry of components.
    from prefopt.comparison import built_ins

    return brought(plugin_manager((built_ins,)), KINDS[kind], kind)
