"""The JSON schema of a run file, by which an editor completes it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import fields

from peft import LoraConfig

from prefopt.schemas import Schema, dataclass_schema, define, reference, settings_schema
from prefopt.training.arguments import ARGUMENTS, Treatment
from prefopt.training.config import PreferenceConfig
from prefopt.training.run_file import ELSEWHERE, RunFile
from prefopt.zoo.schema import add_objective

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run_file_schema() -> Schema:
    """Of a run file: its sections, the arguments of training, the rows of the zoo and the installed components."""
    schema = settings_schema(RunFile)
    definitions = schema.pop("$defs")
    add_objective(definitions, "Objective")
    add_training(definitions, ELSEWHERE)
    definitions["ModelSection"]["properties"]["peft"] |= {"anyOf": [reference("LoraConfig"), {"type": "null"}]}
    schema["properties"] |= {
        "objective": reference("Objective"),
        "training": reference("PreferenceConfig"),
        "components": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "In a run that was saved: the distributions that brought its components.",
        },
    }
    return {"$schema": DIALECT, **schema, "$defs": definitions}


def add_training(definitions: Schema, elsewhere: Container[str]) -> None:
    """Define `PreferenceConfig`, the arguments of training but for those that the document sets elsewhere, and
    `LoraConfig`."""
    names = [field.name for field in fields(PreferenceConfig) if field.init and field.name not in elsewhere]
    remarks = {
        name: f"It {argument.treatment}: {argument.remark}." if argument.remark else f"It {argument.treatment}."
        for name, argument in ARGUMENTS.items()
        if argument.treatment is not Treatment.WORKS
    }
    training = dataclass_schema(PreferenceConfig, names, remarks)
    adapter = dataclass_schema(LoraConfig, [field.name for field in fields(LoraConfig) if field.init])
    for part in training["properties"].values():
        _accept_booleans_for_text(part)
    for part in adapter["properties"].values():
        if part.get("type") == "integer":  # alpha need not be one
            part["type"] = "number"
    define(definitions, "PreferenceConfig", training)
    define(definitions, "LoraConfig", adapter)


def _accept_booleans_for_text(part: Schema) -> None:
    """Let text be true or false, which is how YAML reads `yes` and `no`."""
    options = part.get("anyOf", [part])
    is_text = any(option.get("type") == "string" or "$ref" in option for option in options)
    if is_text and not any(option.get("type") == "boolean" for option in options):
        text = {key: part.pop(key) for key in list(part) if key not in ("description", "default")}
        part["anyOf"] = [*(text.get("anyOf") or [text]), {"type": "boolean"}]
