"""How a suite may write its fields: short or in full, dotted or one inside the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.validation import did_you_mean

__all__ = ["chosen", "flat", "in_full", "nested", "put"]


def in_full(value: object) -> object:
    """A name of the zoo as a mapping, in which fields can be set."""
    return {"zoo": value} if isinstance(value, str) else value


def flat(fields: object, prefix: str = "") -> object:
    """`{objective: {beta: [...]}}` as `{objective.beta: [...]}`."""
    if not isinstance(fields, Mapping):
        return fields
    dotted: dict[str, object] = {}
    for name, value in fields.items():
        inner = flat(value, f"{prefix}{name}.")
        dotted |= inner if isinstance(inner, dict) else {f"{prefix}{name}": value}
    return dotted


def put(fields: dict[str, Any], path: Sequence[str], value: object) -> None:
    """Set a field inside of mappings, which are copied on the way; what stands where one is needed is a name."""
    *outer, last = path
    for name in outer:
        inner = fields.get(name) or {}
        fields[name] = dict(inner) if isinstance(inner, Mapping) else {"name": inner}
        fields = fields[name]
    fields[last] = value


def nested(read: dict[Any, Any]) -> dict[Any, Any]:
    """The suite with names in full and sweeps as mappings in mappings, so that dotted overrides find their places."""
    full = dict(read)
    if isinstance(task := read.get("task"), str):
        full["task"] = {"name": task}
    if isinstance(objectives := read.get("objectives"), dict):
        full["objectives"] = {name: _with_nested_sweeps(in_full(value)) for name, value in objectives.items()}
    return dict(_with_nested_sweeps(full))


def _with_nested_sweeps(fields: Any) -> Any:
    sweeps = flat(fields.get("sweeps")) if isinstance(fields, dict) else None
    if not isinstance(sweeps, dict):
        return fields
    inside: dict[str, Any] = {}
    for field, values in sweeps.items():
        put(inside, str(field).split("."), values)
    return {**fields, "sweeps": inside}


def chosen(fields: dict[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """The suite with those of its objectives alone, where any are named. Raises ValueError for an unknown name."""
    objectives = fields.get("objectives")
    if not only or not isinstance(objectives, dict):
        return fields
    if unknown := [name for name in only if name not in objectives]:
        raise ValueError(f"--objective: none named {unknown[0]!r}.{did_you_mean(unknown[0], objectives)}")
    kept = {name: spec for name, spec in objectives.items() if name in only}
    return {
        **fields,
        "objectives": kept,
        "baseline": fields.get("baseline") if fields.get("baseline") in kept else None,
    }
