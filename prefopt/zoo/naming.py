"""The rows of the zoo that an objective is, with the arguments that make them so."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, final

from prefopt.objective_config import ObjectiveConfig
from prefopt.zoo import ZOO

_ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")


@final
class NamedRow(NamedTuple):
    """A row by its name, with the arguments that differ from its defaults."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.name}({given})"


def rows_of(config: ObjectiveConfig) -> tuple[NamedRow, ...]:
    """The rows that are this objective, those with the fewest arguments first; none where it is a setting of its own.

    A row's arguments are looked for among the objective's own fields, which they become as they are or, as the targets
    of IPO and SPPO, as 1 / (2 beta).
    """
    return _rows(config.model_dump_json())


@cache
def _rows(config: str) -> tuple[NamedRow, ...]:
    wanted = dict(_leaves(json.loads(config)))
    rows = (row for name in ZOO if (row := _as_row(name, wanted)) is not None)
    return tuple(sorted(rows, key=lambda row: len(row.arguments)))


def papers_of(name: str) -> tuple[str, ...]:
    """The arXiv numbers that a row names as its source, in their order."""
    paragraphs = " ".join((inspect.getdoc(ZOO[name]) or "").split())
    source = paragraphs.partition("Source:")[2].partition("Differs:")[0]
    return tuple(dict.fromkeys(_ARXIV.findall(source)))


def _as_row(name: str, wanted: Mapping[str, Any]) -> NamedRow | None:
    """Go through the row's parameters, each of which takes the value that brings the row nearest to the objective."""
    parameters = inspect.signature(ZOO[name]).parameters.values()
    switches = any(isinstance(parameter.default, bool) for parameter in parameters)
    if not switches and _components(_default(name)) != _components(wanted):
        return None  # which component is in a slot, only a switch decides
    arguments: dict[str, Any] = {}
    nearest = _distance(_default(name), wanted)
    for parameter in parameters:
        if nearest == 0:
            break
        best = arguments
        for value in _candidates(parameter.default, wanted):
            trial = {**arguments, parameter.name: value}
            if (distance := _distance(_fields(name, trial), wanted)) < nearest:
                nearest, best = distance, trial
        arguments = best
    return NamedRow(name, arguments) if nearest == 0 else None


@cache
def _default(name: str) -> Mapping[str, Any]:
    return _fields(name, {})


def _fields(name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a row with these arguments; none where one of them is out of its range."""
    try:
        row = ZOO[name](**arguments)
    except ValueError:
        return {}
    return dict(_leaves(row.model_dump(mode="json")))


def _candidates(default: object, fields: Mapping[str, Any]) -> list[Any]:
    """The values of the type of a parameter's default that the fields suggest."""
    values: list[Any]
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int | float):
        values = [value for value in fields.values() if isinstance(value, int | float) and not isinstance(value, bool)]
        values += [1 / (2 * number) for number in values if number > 0]
    else:
        values = [value for value in fields.values() if type(value) is type(default) or isinstance(value, list)]
    return [value for index, value in enumerate(values) if value != default and value not in values[:index]]


def _components(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {path: value for path, value in fields.items() if path.endswith(".name")}


def _distance(fields: Mapping[str, Any], wanted: Mapping[str, Any]) -> int:
    return len([key for key in fields.keys() | wanted.keys() if fields.get(key, ...) != wanted.get(key, ...)])


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """The innermost fields by their path; lists of texts and numbers are one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{index}")
    else:
        yield path, value
