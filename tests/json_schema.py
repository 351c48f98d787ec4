"""A JSON value against a JSON schema, for the keywords that the schemas of prefopt use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
_LIMITS = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
}
_SIZES = {
    "minItems": (list, 1),
    "maxItems": (list, -1),
    "minLength": (str, 1),
    "minProperties": (dict, 1),
}
_WORDS = {"$defs", "$schema", "default", "description", "title"}


def violations(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Where the value breaks the schema, and how. Raises KeyError for a keyword that is none of those in use."""
    for keyword, argument in schema.items():
        if keyword not in _WORDS:
            for problem in _CHECKS[keyword](value, argument, schema, root, where):
                yield problem if ": " in problem else f"{where}: {problem}"


def _reference(value: Any, argument: str, schema: Any, root: Any, where: str) -> Iterator[str]:
    yield from violations(value, root["$defs"][argument.removeprefix("#/$defs/")], root, where)


def _any_of(value: Any, argument: list[Any], schema: Any, root: Any, where: str) -> Iterator[str]:
    options = [list(violations(value, option, root, where)) for option in argument]
    if all(options):
        yield max(
            (problem for problems in options for problem in problems),
            key=lambda text: text.partition(":")[0].count("."),
        )


def _type(value: Any, argument: str, schema: Any, root: Any, where: str) -> Iterator[str]:
    is_bool = isinstance(value, bool) and argument != "boolean"
    if is_bool or not isinstance(value, _TYPES[argument]):
        yield f"{value!r} is no {argument}"


def _properties(value: Any, argument: Mapping[str, Any], schema: Any, root: Any, where: str) -> Iterator[str]:
    for name in argument.keys() & (value if isinstance(value, dict) else {}):
        yield from violations(value[name], argument[name], root, f"{where}.{name}")


def _pattern_properties(value: Any, argument: Mapping[str, Any], schema: Any, root: Any, where: str) -> Iterator[str]:
    for pattern, part in argument.items():
        for name in value if isinstance(value, dict) else ():
            if re.search(pattern, name):
                yield from violations(value[name], part, root, f"{where}.{name}")


def _additional(value: Any, argument: Any, schema: Any, root: Any, where: str) -> Iterator[str]:
    patterns = schema.get("patternProperties", ())
    for name in value if isinstance(value, dict) else ():
        if name in schema.get("properties", ()) or any(re.search(pattern, name) for pattern in patterns):
            continue
        if argument is False:
            yield f"{where}.{name}: no such field"
        elif argument is not True:
            yield from violations(value[name], argument, root, f"{where}.{name}")


def _items(value: Any, argument: Any, schema: Any, root: Any, where: str) -> Iterator[str]:
    for index, part in enumerate(value if isinstance(value, list) else ()):
        yield from violations(part, argument, root, f"{where}.{index}")


def _prefix_items(value: Any, argument: list[Any], schema: Any, root: Any, where: str) -> Iterator[str]:
    for index, (part, of_part) in enumerate(zip(value if isinstance(value, list) else (), argument, strict=False)):
        yield from violations(part, of_part, root, f"{where}.{index}")


def _required(value: Any, argument: list[str], schema: Any, root: Any, where: str) -> Iterator[str]:
    yield from (f"{name} is missing" for name in argument if isinstance(value, dict) and name not in value)


_CHECKS: dict[str, Any] = {
    "$ref": _reference,
    "anyOf": _any_of,
    "type": _type,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "items": _items,
    "prefixItems": _prefix_items,
    "required": _required,
    "const": lambda value, argument, *_: [] if value == argument else [f"{value!r} is not {argument!r}"],
    "enum": lambda value, argument, *_: [] if value in argument else [f"{value!r} is none of {argument}"],
    **{
        name: lambda value, argument, *_, holds=holds: (
            [f"{value} is beyond {argument}"]
            if isinstance(value, int | float) and not isinstance(value, bool) and not holds(value, argument)
            else []
        )
        for name, holds in _LIMITS.items()
    },
    **{
        name: lambda value, argument, *_, kind=kind, sign=sign: (
            [f"{value!r} has not the size {argument}"]
            if isinstance(value, kind) and sign * (len(value) - argument) < 0
            else []
        )
        for name, (kind, sign) in _SIZES.items()
    },
}
