"""Training arguments as a file gives them: known names, and values of the declared types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from prefopt.training.config import PreferenceConfig
from prefopt.validation import did_you_mean

__all__ = ["training_arguments"]


def training_arguments(given: Mapping[str, Any], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """The fields of PreferenceConfig that are given, as they are declared.

    elsewhere  fields that may not be given here -> what is to be said of them, such as "belongs under `data`"
    Raises ValueError for these, for names that PreferenceConfig does not have, and for values of another type.
    """
    hints = get_type_hints(PreferenceConfig)
    names = sorted({field.name for field in dataclasses.fields(PreferenceConfig) if field.init} - set(elsewhere))
    checked = {}
    for name, value in given.items():
        if name in elsewhere:
            raise ValueError(f"{name} {elsewhere[name]}")
        if name not in names:
            raise ValueError(f"{name}: no such training argument.{did_you_mean(name, names)}")
        try:
            checked[name] = _as_declared(hints[name], value)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']}, got {value!r}") from error
    return checked


def _as_declared(hint: Any, value: object) -> Any:
    """The value as the argument's type has it. YAML takes `no` and `true` for truth values where words are meant."""
    adapter = TypeAdapter(hint)
    try:
        return adapter.validate_python(value)
    except ValidationError:
        if not isinstance(value, bool):
            raise
        return adapter.validate_python("true" if value else "no")
