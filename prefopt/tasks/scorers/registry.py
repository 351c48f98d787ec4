"""The registry of scorers: the built-in ones and those of installed plugins."""

from __future__ import annotations

from typing import Annotated, final

from pydantic import BeforeValidator, SerializeAsAny

from prefopt.registry import Registry
from prefopt.tasks import scorers
from prefopt.tasks.scorers.base import Scorer


@final
class ScorerError(ValueError):
    """No scorer of that name, or one that does not accept its fields."""


SCORERS: Registry[Scorer] = Registry(Scorer, (scorers,), ScorerError)  # type: ignore[type-abstract]

available_scorers, resolve_scorer = SCORERS.available, SCORERS.resolve

AnyScorer = Annotated[SerializeAsAny[Scorer], BeforeValidator(resolve_scorer)]
"""The type of a field that takes what `resolve_scorer` does."""
