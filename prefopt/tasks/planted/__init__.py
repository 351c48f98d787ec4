"""A task with a known truth: a generated language in which a rule says what each token is worth."""

from __future__ import annotations

from prefopt.tasks.planted.language import Language, Phrase
from prefopt.tasks.planted.task import PlantedTask

__all__ = ["Language", "Phrase", "PlantedTask"]
