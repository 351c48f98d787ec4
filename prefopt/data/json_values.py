"""JSON documents, and the types of their values in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping


def describe(value: object) -> str:
    """The type of a JSON value, in words, for messages."""
    kinds = ((str, "text"), (Mapping, "an object"), ((list, tuple), "a list"))
    if value is None:
        return "nothing (null)"
    if isinstance(value, int | float):
        return f"the value {json.dumps(value)}"
    return next((words for kind, words in kinds if isinstance(value, kind)), f"a value of type {type(value).__name__}")


class DoubledKeyError(ValueError):
    """An object of a JSON document has a key, which is the message, twice: readers would keep the last in silence."""


def json_value(text: str | bytes) -> object:
    """A JSON document. Raises ValueError where it is none, DoubledKeyError for a key that an object has twice."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("lists or objects are nested too deep to be read") from None


def _object(items: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(items)
    if len(fields) < len(items):
        raise DoubledKeyError(next(key for key, count in Counter(key for key, _ in items).items() if count > 1))
    return fields
