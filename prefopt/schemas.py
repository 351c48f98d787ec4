"""JSON schemas of settings: pydantic's, with the meaning of each field, and with what is installed of each kind."""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model
from pydantic import Field as SettingsField
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import ArgumentsSchema, ModelSchema

__all__ = [
    "Schema",
    "add_kinds",
    "changes",
    "dataclass_schema",
    "define",
    "named",
    "reference",
    "settings_schema",
    "summary",
]

Schema = dict[str, Any]

_PREFIX = "#/$defs/"
_FIELD = re.compile(r"((?:\w+, ?)*\w+,?) {2,}(\S.*)")
"""A line of a docstring that says what fields mean: their names, then, some spaces later, the words."""


class _WithMeanings(GenerateJsonSchema):
    """pydantic's, with the meanings that docstrings give in place of titles that repeat the names."""

    def model_schema(self, schema: ModelSchema) -> Schema:
        """Of settings."""
        cls = schema["cls"]
        described = super().model_schema(schema) | {"description": summary(cls)}
        meanings = _meanings(cls)
        for name, part in described.get("properties", {}).items():
            part.pop("title", None)
            if name in meanings:
                part.setdefault("description", meanings[name])
        return described

    def arguments_schema(self, schema: ArgumentsSchema) -> Schema:
        """Of a function."""
        described = super().arguments_schema(schema)
        for part in described.get("properties", {}).values():
            part.pop("title", None)
        return described


def settings_schema(model: type[BaseModel] | Any) -> Schema:
    """The schema of settings, or of the keywords of a function, with their definitions under `$defs`."""
    return TypeAdapter(model).json_schema(schema_generator=_WithMeanings)


def dataclass_schema(cls: type, names: Iterable[str], remarks: Mapping[str, str] | None = None) -> Schema:
    """The schema of a mapping of these fields of a dataclass, whose meanings are their metadata's `help`.

    remarks  field -> what to add to its meaning
    A field of which JSON schema cannot tell the type takes everything.
    """
    hints, remarks = get_type_hints(cls), remarks or {}
    declared = {field.name: field for field in fields(cls)}
    parts: dict[str, Any] = {}
    for name in names:
        text = " ".join(f"{declared[name].metadata.get('help', '')} {remarks.get(name, '')}".split())
        parts[name] = (_representable(hints[name]), SettingsField(_default(declared[name]), description=text or None))
    config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)
    schema = settings_schema(create_model(cls.__name__, __config__=config, **parts))
    schema["description"] = f"Fields of {cls.__name__}."
    return schema


def _representable(hint: Any) -> Any:
    try:
        TypeAdapter(hint).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return Any
    return hint


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else ...


def summary(cls: object) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def _meanings(cls: type[BaseModel]) -> dict[str, str]:
    """Field -> what the docstrings of the class and those that it derives from say of it."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        names: list[str] = []
        words: list[str] = []
        column, goes_on = 0, False
        for line in (inspect.getdoc(base) or "").splitlines() if issubclass(base, BaseModel) else ():
            match = _FIELD.fullmatch(line)
            read = re.findall(r"\w+", match[1]) if match else []
            if match and set(read) <= cls.model_fields.keys():
                names, words = ([*names, *read], words) if goes_on else (read, [])
                words.append(match[2])
                column, goes_on = match.start(2), match[1].endswith(",")
            elif names and line.strip() and line.startswith(" " * column):
                words.append(line.strip())
            else:
                names, goes_on = [], False
            meanings |= dict.fromkeys(names, " ".join(words))
    return meanings


def reference(name: str) -> Schema:
    """The schema that a definition has."""
    return {"$ref": _PREFIX + name}


def named(descriptions: Mapping[str, str]) -> Schema:
    """The schema of one of these names, each with what it is."""
    return {"anyOf": [{"const": name, "description": text} for name, text in descriptions.items()]}


def changes(schema: Schema, kinds: Iterable[str]) -> Schema:
    """The schema of what is laid over settings: none of their fields is needed, nor are those of components in them."""
    changed = _with_references(schema, {name: f"{name}.changes" for name in kinds})
    return {key: value for key, value in changed.items() if key != "required"}


def add_kinds(definitions: Schema, kinds: Mapping[str, Mapping[str, type[BaseModel]]]) -> None:
    """Define each kind, an abstract class, as what is installed of it by name: `KIND`, a name or a mapping with `name`,
    and `KIND.changes`, where the mapping may be laid over one that is there."""
    for kind, classes in kinds.items():
        short: dict[str, str] = {}
        for name, cls in sorted(classes.items()):
            schema = settings_schema(cls)
            needed = schema.get("required", [])
            if not needed:
                short[name] = schema["description"]
            define(definitions, f"{kind}.{name}", schema | {"required": ["name", *needed]}, shared=kinds)
            definitions[f"{kind}.{name}.changes"] = changes(definitions[f"{kind}.{name}"], kinds)
        full = [reference(f"{kind}.{name}") for name in sorted(classes)]
        laid = [reference(f"{kind}.{name}.changes") for name in sorted(classes)]
        definitions[kind] = {"anyOf": [*named(short)["anyOf"], *full]}
        definitions[f"{kind}.changes"] = {"anyOf": [reference(kind), *laid]}


def define(definitions: Schema, name: str, schema: Schema, *, shared: Container[str] = ()) -> Schema:
    """Add a schema under this name, and those under its `$defs`, but for the shared ones, under names below it. Gives
    the reference to it."""
    inner = {key: f"{name}.{key}" for key in schema.get("$defs", {}) if key not in shared}
    for key, definition in inner.items():
        definitions[definition] = _with_references(schema["$defs"][key], inner)
    definitions[name] = _with_references({key: part for key, part in schema.items() if key != "$defs"}, inner)
    return reference(name)


def _with_references(schema: Any, names: Mapping[str, str]) -> Any:
    """The schema with other names for definitions."""
    if isinstance(schema, list):
        return [_with_references(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _PREFIX + names.get(value.removeprefix(_PREFIX), value.removeprefix(_PREFIX))
        if key == "$ref"
        else _with_references(value, names)
        for key, value in schema.items()
    }
