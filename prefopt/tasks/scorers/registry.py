"""Finds scorers: the built-in ones and those of installed plugins, through the same hook."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, final

from pydantic import BeforeValidator, SerializeAsAny

from prefopt.hookspecs import SCORERS
from prefopt.plugins import plugin_manager
from prefopt.registry import Owner, brought, resolve_named
from prefopt.tasks import scorers
from prefopt.tasks.scorers.base import Scorer

__all__ = ["AnyScorer", "ScorerError", "available_scorers", "installed_scorers", "resolve_scorer"]


@final
class ScorerError(ValueError):
    """No scorer of that name, or one that does not accept its fields."""


@functools.cache
def installed_scorers() -> Mapping[str, tuple[type[Scorer], Owner]]:
    """The installed scorers and their owners, by name."""
    return brought(plugin_manager((scorers,)), SCORERS, Scorer)  # type: ignore[type-abstract]


def available_scorers() -> Mapping[str, type[Scorer]]:
    """The installed scorers, by name."""
    return {name: cls for name, (cls, _) in installed_scorers().items()}


def resolve_scorer(value: object) -> Scorer:
    """A scorer from its name, from a mapping with `name` and fields, or from a scorer itself.

    Raises ScorerError with the nearest right name where there is none so called, or where a field does not fit.
    """
    return resolve_named(Scorer, value, available_scorers, ScorerError)  # type: ignore[type-abstract]


AnyScorer = Annotated[SerializeAsAny[Scorer], BeforeValidator(resolve_scorer)]
"""The type of a field that takes what `resolve_scorer` does."""
