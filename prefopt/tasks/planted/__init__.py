"""A task with known token weights: a generated language in which a rule gives the value of every token."""

from __future__ import annotations

from prefopt.tasks.planted.language import Language, Phrase
from prefopt.tasks.planted.task import PlantedTask

__all__ = ["Language", "Phrase", "PlantedTask"]
