"""The parameters of a row: how they are read, and which of them an objective still reads once other slots are laid over
the row's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from typing import Any, ParamSpec, get_args

from pydantic import ConfigDict, ValidationError, validate_call

from prefopt.objective_config import ObjectiveConfig
from prefopt.validation import did_you_mean, explain, reject_bool

__all__ = ["as_given", "checked", "laid_over", "unread", "without_unread"]

P = ParamSpec("P")
Row = Callable[..., ObjectiveConfig]


def checked(function: Callable[P, ObjectiveConfig]) -> Callable[P, ObjectiveConfig]:
    """A row of the zoo: the function, whose arguments are read as those of a run file are, however it is called.

    It raises ValueError in one line that begins with its name, and TypeError for arguments that it does not have.
    """
    signature, name = inspect.signature(function, eval_str=True), function.__name__

    @wraps(function)
    def row(*args: P.args, **kwargs: P.kwargs) -> ObjectiveConfig:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            near = "".join(did_you_mean(key, signature.parameters) for key in kwargs if key not in signature.parameters)
            raise TypeError(f"{name}: {error}.{near} Parameters: {', '.join(signature.parameters)}.") from None
        try:
            for key, value in arguments.items():
                reject_bool(value, signature.parameters[key].annotation, field=key)
            return _validated(function)(**arguments)
        except ValidationError as error:
            given = {(key,) for key in arguments}
            computed = not {problem["loc"][:1] for problem in error.errors()} <= given  # by the row, for a component
            at = f" at {as_given(arguments)}" if computed else ""
            raise ValueError(f"{name}{at}: {' '.join(explain(error, ObjectiveConfig))}") from error
        except ArithmeticError as error:
            raise ValueError(f"{name}: {error} at {as_given(arguments)}; give other values") from error
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    return row


@cache
def _validated(function: Row) -> Row:
    return validate_call(config=ConfigDict(allow_inf_nan=False))(function)


def as_given(arguments: Mapping[str, object]) -> str:
    """The arguments of a row, in words."""
    return ", ".join(f"{name} {value}" for name, value in arguments.items())


def laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with the changes in them, field by field but where a change names another component."""
    merged = dict(base)
    for key, change in changes.items():
        below = base.get(key)
        merged[key] = change
        if isinstance(below, Mapping) and isinstance(change, Mapping):
            same_component = change.get("name", below.get("name")) == below.get("name")
            merged[key] = laid_over(below, change) if same_component else change
    return merged


def unread(row: Row, arguments: Mapping[str, Any], slots: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The arguments of a row that make no difference under these slots, each with the fields that it would fill.

    It does not matter which value an argument has: others that the row takes are tried in its place.
    """
    plain = row(**arguments).model_dump()
    parameters = inspect.signature(row, eval_str=True).parameters
    for name in arguments if slots else ():
        others = list(_with_others(row, arguments, parameters[name]))
        filled = dict.fromkeys(path for other in others for path in _differences(plain, other))
        if filled and all(laid_over(other, slots) == laid_over(plain, slots) for other in others):
            yield name, list(filled)


def without_unread(row: Row, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What `build` takes, without the parameters of its row that it would refuse since slots beside them hide them."""
    parameters = inspect.signature(row).parameters
    arguments = {key: value for key, value in fields.items() if key in parameters}
    slots = {key: value for key, value in fields.items() if key not in parameters and key != "zoo"}
    hidden = {name for name, _ in unread(row, arguments, slots)}
    return {key: value for key, value in fields.items() if key not in hidden}


def _with_others(row: Row, arguments: Mapping[str, Any], parameter: inspect.Parameter) -> Iterator[dict[str, Any]]:
    """The fields of the row under values of one parameter, of which two differ at least."""
    for value in _values(parameter):
        try:
            config = row(**{**arguments, parameter.name: value})
        except ValueError:
            continue  # out of the parameter's range
        yield config.model_dump()


def _values(parameter: inspect.Parameter) -> Iterator[Any]:
    """The default of a parameter, and others of its type, in its range or out of it."""
    default = parameter.default
    yield default
    yield from get_args(parameter.annotation)  # of a choice of words
    if isinstance(default, bool):
        yield not default
    elif isinstance(default, int | float):
        yield from (default / 2, default / 2 + 1 / 8, default + 1)
    elif isinstance(default, tuple):
        yield default[:1]


def _differences(one: Mapping[str, Any], two: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The innermost fields that differ, by their paths."""
    for key in {**one, **two}:
        first, second = one.get(key), two.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from _differences(first, second, f"{path}{key}.")
        elif first != second:
            yield f"{path}{key}"
