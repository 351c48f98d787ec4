"""The JSON schema of a suite, by which an editor completes it."""

from __future__ import annotations

from prefopt.comparison.suite import ELSEWHERE, Suite
from prefopt.comparison.suite_fields import Entrant
from prefopt.schemas import Schema, add_kinds, reference, settings_schema
from prefopt.tasks.base import Task
from prefopt.tasks.registry import available_tasks
from prefopt.tasks.scorers.base import Scorer
from prefopt.tasks.scorers.registry import available_scorers
from prefopt.training.run_schema import DIALECT, add_training
from prefopt.zoo.schema import add_objective

_VALUES = {"type": "array", "minItems": 1}
_SWEEPS: Schema = {
    "type": "object",
    "properties": {"objective": {"type": "object"}, "training": {"type": "object"}},
    "patternProperties": {r"^(objective|training)\..+": _VALUES},
    "additionalProperties": False,
    "description": "objective.FIELD or training.FIELD -> values, dotted or nested.",
}


def suite_schema() -> Schema:
    """Of a suite: the installed tasks with their fields, objectives, and the arguments of training."""
    schema = settings_schema(Suite)
    definitions = schema.pop("$defs")
    training = reference("PreferenceConfig")
    entrant = definitions.pop(Entrant.__name__)["properties"]
    entrant["training"] |= {"$ref": training["$ref"]}
    add_objective(definitions, "Entrant", {"training": entrant["training"], "sweeps": _SWEEPS})
    add_training(definitions, ELSEWHERE)
    kinds = {Task.__name__: available_tasks(), Scorer.__name__: available_scorers()}
    add_kinds(definitions, kinds)
    schema["properties"] |= {
        "sweeps": _SWEEPS,
        "training": training,
        "peft": {"anyOf": [reference("LoraConfig"), {"type": "null"}]},
    }
    return {"$schema": DIALECT, **schema, "$defs": definitions}
