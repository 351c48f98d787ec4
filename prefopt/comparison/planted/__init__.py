"""A task with a known truth: a generated language in which a rule says what each token is worth."""

from __future__ import annotations

from prefopt.comparison.planted.language import Language, Phrase
from prefopt.comparison.planted.task import PlantedTask

__all__ = ["Language", "Phrase", "PlantedTask"]
