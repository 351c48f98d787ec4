"""The forms in which a suite may be written: names or mappings, fields dotted or nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.validation import did_you_mean


def as_mapping(value: object) -> object:
    """A name of the zoo as the mapping that it is short for."""
    return {"zoo": value} if isinstance(value, str) else value


def flatten(fields: object, prefix: str = "") -> object:
    """`{objective: {beta: [...]}}` as `{objective.beta: [...]}`."""
    if not isinstance(fields, Mapping):
        return fields
    dotted: dict[str, object] = {}
    for name, value in fields.items():
        inner = flatten(value, f"{prefix}{name}.")
        dotted |= inner if isinstance(inner, dict) else {f"{prefix}{name}": value}
    return dotted


def set_path(fields: dict[str, Any], path: Sequence[str], value: object) -> None:
    """Set a field of nested mappings, which are copied on the way; a value that is no mapping becomes its `name`."""
    *outer, last = path
    for name in outer:
        inner = fields.get(name) or {}
        fields[name] = dict(inner) if isinstance(inner, Mapping) else {"name": inner}
        fields = fields[name]
    fields[last] = value


def nest(read: dict[Any, Any]) -> dict[Any, Any]:
    """The suite with mappings in the place of names, and nested sweeps, as dotted overrides need them."""
    full = dict(read)
    if isinstance(task := read.get("task"), str):
        full["task"] = {"name": task}
    if isinstance(objectives := read.get("objectives"), dict):
        full["objectives"] = {name: _nest_sweeps(as_mapping(value)) for name, value in objectives.items()}
    return dict(_nest_sweeps(full))


def _nest_sweeps(fields: Any) -> Any:
    sweeps = flatten(fields.get("sweeps")) if isinstance(fields, dict) else None
    if not isinstance(sweeps, dict):
        return fields
    inside: dict[str, Any] = {}
    for field, values in sweeps.items():
        set_path(inside, str(field).split("."), values)
    return {**fields, "sweeps": inside}


def select_objectives(fields: dict[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """The suite with the objectives `only`, if any are named. Raises ValueError for an unknown name."""
    objectives = fields.get("objectives")
    if not only or not isinstance(objectives, dict):
        return fields
    if unknown := [name for name in only if name not in objectives]:
        raise ValueError(f"--objective: none named {unknown[0]!r}.{did_you_mean(unknown[0], objectives)}")
    kept = {name: spec for name, spec in objectives.items() if name in only}
    baseline = fields.get("baseline")
    return {**fields, "objectives": kept, "baseline": baseline if baseline in kept else None}
