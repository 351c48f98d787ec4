"""The JSON schema of an objective as a run file describes it."""

from __future__ import annotations

from collections.abc import Mapping

from prefopt.hookspecs import KINDS
from prefopt.objective_config import ObjectiveConfig
from prefopt.registry import available
from prefopt.schemas import Schema, add_kinds, changes, named, reference, settings_schema, summary
from prefopt.zoo import ZOO


def add_objective(definitions: Schema, name: str, further: Mapping[str, Schema] | None = None) -> None:
    """Define, under this name, what `build` takes: the name of a row, the row with parameters and slots laid over it,
    or an ObjectiveConfig; with all installed components.

    further  further fields of the mapping
    """
    kinds = {kind.__name__: available(kind) for kind in KINDS}
    config = settings_schema(ObjectiveConfig)
    for part, schema in config.pop("$defs").items():
        if part not in kinds:
            definitions[part] = schema
            definitions[f"{part}.changes"] = changes(schema, kinds)
    add_kinds(definitions, kinds)
    definitions[f"{name}.slots"] = config | {"properties": {**config["properties"], **(further or {})}}
    laid = [key for key in definitions if f"{key}.changes" in definitions]
    slots = changes(config, laid)["properties"]
    for row, function in ZOO.items():
        values = function().model_dump(mode="json")
        properties = {slot: {**part, "default": values.get(slot)} for slot, part in slots.items()}
        properties |= settings_schema(function)["properties"] | (further or {})
        definitions[f"{name}.{row}"] = {
            "type": "object",
            "description": summary(function),
            "properties": {"zoo": {"const": row}, **properties},
            "required": ["zoo"],
            "additionalProperties": False,
        }
    rows = named({row: summary(function) for row, function in ZOO.items()})["anyOf"]
    mappings = [reference(f"{name}.{key}") for key in ("slots", *ZOO)]
    definitions[name] = {"anyOf": [*rows, *mappings], "description": summary(ObjectiveConfig)}
