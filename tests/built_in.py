"""Built-in components that no list of the tests names, so that a new one is tried where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from prefopt import zoo
from prefopt.component import Component
from prefopt.objective_config import ObjectiveConfig
from prefopt.registry import installed

Kind = TypeVar("Kind", bound=Component)


def built_in(kind: type[Kind]) -> set[type[Kind]]:
    """Every built-in component of the kind."""
    return {cls for cls, owner in installed() if owner.distribution == "prefopt" and issubclass(cls, kind)}


def unlisted(kind: type[Kind], listed: Iterable[Component]) -> list[Kind]:
    """Those whose class no listed one has and that need no arguments, at their defaults."""
    classes = sorted(built_in(kind) - {type(component) for component in listed}, key=lambda cls: cls.__name__)
    return [cls() for cls in classes if not any(field.is_required() for field in cls.model_fields.values())]


def without_formula(
    kind: type[Kind], by_hand: Iterable[Component], slot: Callable[[ObjectiveConfig], Component | None]
) -> set[type[Kind]]:
    """Those that neither the tests of their kind write out by hand nor a row of the zoo has, whose formula
    tests/zoo/test_papers or test_papers_losses writes out."""
    of_rows = {type(slot(row())) for row in zoo.ZOO.values()}
    return built_in(kind) - of_rows - {type(component) for component in by_hand}
