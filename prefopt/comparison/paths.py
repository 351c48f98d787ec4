"""Local files that a suite names and that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FIELDS = ("model", "data", "file", "name")
"""Fields of tasks, of their sources and scorers that may name a path."""

_LOCAL = ("/", "./", "../", "~")
"""How a name begins that is a path, and never one of the hub."""

_SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".yaml", ".yml", ".parquet", ".arrow")


def missing_paths(task: Any) -> dict[str, str]:
    """Path -> what is wrong, in a line, for the local paths among a task's fields that do not exist."""
    return {
        path: f"task.{field}: no such file or folder; it was looked for at {Path(path).expanduser().absolute()}"
        for field, path in _missing(task)
    }


def _missing(fields: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(fields, list):
        for number, entry in enumerate(fields):
            yield from _missing(entry, f"{prefix}{number}.")
    for name, value in fields.items() if isinstance(fields, dict) else ():
        if not isinstance(value, str):
            yield from _missing(value, f"{prefix}{name}.")
        elif name in _FIELDS and _is_path(value) and not Path(value).expanduser().exists():
            yield f"{prefix}{name}", value


def _is_path(name: str) -> bool:
    return name.startswith(_LOCAL) or name.endswith(_SUFFIXES)
