"""A task with known token weights: a generated language in which a rule gives the value of every token."""

from prefopt.tasks.planted.language import Language as Language
from prefopt.tasks.planted.language import Phrase as Phrase
from prefopt.tasks.planted.task import PlantedTask as PlantedTask
