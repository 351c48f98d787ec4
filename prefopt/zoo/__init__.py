"""Named objectives: each function is a row of the table and returns an ObjectiveConfig, with parameters in its paper's
words.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from prefopt.objective_config import ObjectiveConfig
from prefopt.registry import components_with_field
from prefopt.validation import did_you_mean, explain
from prefopt.zoo import absolute, f_divergences, per_unit, reference_free, sequence_level, token_level, weighted
from prefopt.zoo.absolute import *
from prefopt.zoo.f_divergences import *
from prefopt.zoo.parameters import laid_over, unread
from prefopt.zoo.per_unit import *
from prefopt.zoo.reference_free import *
from prefopt.zoo.sequence_level import *
from prefopt.zoo.token_level import *
from prefopt.zoo.weighted import *

ZOO: Mapping[str, Callable[..., ObjectiveConfig]] = types.MappingProxyType(
    {
        name: row
        for module in (sequence_level, token_level, per_unit, absolute, weighted, f_divergences, reference_free)
        for name, row in vars(module).items()
        if inspect.isfunction(row) and row.__module__ == module.__name__
    }
)
"""Every named objective, by name: the functions that these modules define."""

__all__ = ["ZOO", *sorted(["build", *ZOO])]


def build(spec: object) -> ObjectiveConfig:
    """The objective that a run file describes: a name of the zoo, a mapping, or an ObjectiveConfig itself.

    A mapping with `zoo: NAME` is that row; its other keys are the row's parameters, then fields of ObjectiveConfig
    laid over it, slot by slot: `{zoo: sparsepo, beta: 0.5, weighting: {position: token}}`. A slot that names another
    component is replaced whole. A mapping without `zoo` is an ObjectiveConfig. Raises ValueError with the names that
    would be right, and for a parameter of the row that no longer counts since a slot beside it replaces what it fills.
    """
    if isinstance(spec, ObjectiveConfig):
        return spec
    fields = {"zoo": spec} if isinstance(spec, str) else spec
    if not isinstance(fields, Mapping):
        raise ValueError(f"an objective is a name of the zoo or a mapping, got {spec!r}")
    if unnamed := [key for key in fields if not isinstance(key, str)]:
        raise ValueError(f"an objective's parameters and slots have names, got {unnamed[0]!r}")
    if "zoo" not in fields:
        return _validated(fields)
    name = fields["zoo"]
    if not isinstance(name, str) or name not in ZOO:
        raise ValueError(
            f"no objective named {name!r} in the zoo.{did_you_mean(str(name), ZOO)} Zoo: {', '.join(ZOO)}."
        )
    parameters = inspect.signature(ZOO[name], eval_str=True).parameters
    arguments = {key: value for key, value in fields.items() if key in parameters}
    slots = {key: value for key, value in fields.items() if key not in parameters and key != "zoo"}
    names = [*parameters, *ObjectiveConfig.model_fields]
    if unknown := [key for key in slots if key not in names]:
        rows = [row for row, function in ZOO.items() if unknown[0] in inspect.signature(function).parameters]
        raise ValueError(
            f"{unknown[0]}: {name} has no such parameter, and objectives no such slot."
            f"{did_you_mean(unknown[0], names)} Parameters: {', '.join(parameters)}. "
            f"Slots: {', '.join(ObjectiveConfig.model_fields)}."
            f"{f' Rows that read {unknown[0]!r}: ' + ', '.join(rows) + '.' if rows else ''}"
            f"{' ' + components if (components := components_with_field(unknown[0])) else ''}"
        )
    row = ZOO[name](**arguments)
    config = _validated(laid_over(row.model_dump(), slots)) if slots else row
    _reject_unread(name, arguments, slots)
    return config


def _reject_unread(name: str, arguments: Mapping[str, object], slots: Mapping[str, object]) -> None:
    for parameter, filled in unread(ZOO[name], arguments, slots):
        replaced = " and ".join(dict.fromkeys(f"`{path.partition('.')[0]}`" for path in filled))
        raise ValueError(
            f"{parameter}: nothing reads it: {name} fills {' and '.join(filled)} with it, which is replaced by the "
            f"{replaced} given beside it; leave out {parameter}, or {replaced}."
        )


def _validated(fields: Mapping[str, object]) -> ObjectiveConfig:
    try:
        return ObjectiveConfig.model_validate(dict(fields))
    except ValidationError as error:
        raise ValueError(" ".join(explain(error, ObjectiveConfig))) from error
