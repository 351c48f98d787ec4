"""Checks of a component as a configuration: what a run file, a registry and a saved objective need of it."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from typing import Literal, get_args, get_origin

import yaml
from pydantic import ValidationError

from prefopt.component import Component
from prefopt.hookspecs import KINDS
from prefopt.registry import ComponentError, owner, resolve
from prefopt.testing.cases import case_for
from prefopt.testing.check import ConformanceError, check, label
from prefopt.testing.trial import build, call, require, require_same


@check(Component)
def config_round_trips(component: Component) -> None:
    """Written as JSON or YAML and read again, the component is the same.

    Run files, saved objectives and checkpoints hold components as text; one that comes back otherwise is another
    objective than the one that was trained.
    """
    fields = component.model_dump(mode="json")
    for language, text in (("JSON", json.loads(json.dumps(fields))), ("YAML", yaml.safe_load(yaml.safe_dump(fields)))):
        again = _read(component, text)
        require(again == component, f"after {language} it is {again!r}", f"{component!r}")


def _read(component: Component, fields: dict[str, object]) -> Component:
    try:
        owner(type(component))
    except ComponentError:  # is_registered says so
        return type(component).model_validate(fields)
    kind = next(kind for kind in KINDS if isinstance(component, kind))
    return resolve(kind, fields)


@check(Component)
def unknown_fields_are_refused(component: Component) -> None:
    """A field that the component does not have is an error.

    A misspelt hyper-parameter that is passed over in silence leaves its default in force, and the run is not the one
    that was meant.
    """
    fields = {name: getattr(component, name) for name in type(component).model_fields}
    try:
        type(component).model_validate({**fields, "no_such_field": 1})
    except ValidationError:
        return
    raise ConformanceError("it takes a field that it does not have", on="no_such_field: 1")


@check(Component)
def is_a_value(component: Component) -> None:
    """The component cannot be changed, and equal components have equal hashes.

    Objectives are compared, shared between runs and used as keys; one that changes underway changes them all.
    """
    fields = {name: getattr(component, name) for name in type(component).model_fields}
    twin = type(component).model_validate(fields)
    require(
        hash(twin) == hash(component) and twin == component, "a component of the same fields is not equal to it", ""
    )
    for name in fields:
        try:
            setattr(twin, name, fields[name])
        except ValidationError:
            continue
        raise ConformanceError(f"its field {name!r} can be set after it was made", on=repr(component))


@check(Component)
def name_is_a_literal(component: Component) -> None:
    """`name` is declared as a Literal of the one name, which is its default.

    The name is how text finds the class. With a plain string the class would take any other name as well, and what it
    wrote could not be read again.
    """
    field = type(component).model_fields["name"]
    require(
        get_origin(field.annotation) is Literal and get_args(field.annotation) == (field.default,),
        f'it is declared as {field.annotation} = {field.default!r}; write name: Literal["..."] = "..."',
        type(component).__qualname__,
    )


@check(Component)
def is_registered(component: Component) -> None:
    """The registry finds this very class under its name.

    A run file can only name what a hook brings: the class belongs into the list that its plugin's hook returns, and
    the plugin's module into the entry-point group `prefopt` of an installed package.
    """
    try:
        owner(type(component))
    except ComponentError as error:
        raise ConformanceError(str(error), on=f"name {component.name!r}") from error


@check(Component)
def docstring_states_equation_and_source(component: Component) -> None:
    """The class has a docstring of its own; its first line is an equation, and "Source:" says where it is from.

    `prefopt components` and the formula cards are made from these lines, and without the source nobody can tell a
    variant from a mistake. What was never published has a source too: "Source: this package".
    """
    text = inspect.cleandoc(type(component).__doc__ or "")
    first = text.partition("\n")[0]
    require("=" in first, f"the first line of its docstring holds no equation: {first!r}", type(component).__qualname__)
    require("Source:" in text, 'its docstring has no "Source:"', type(component).__qualname__)


@check(Component)
def pickles(component: Component) -> None:
    """The component and what it builds can be pickled, and the copy is the same.

    Processes that share the work of a run send them to each other so. A class defined inside a function cannot go.
    """
    require(pickle.loads(pickle.dumps(component)) == component, "its copy is not equal to it", repr(component))
    function, case = build(component), case_for(component)
    copied = pickle.loads(pickle.dumps(function))
    require_same(call(component, case, copied), call(component, case, function), "in its copy a value", case)


@check(Component)
def deep_copies(component: Component) -> None:
    """What the component builds can be deep-copied after use, and the copy says the same.

    Averages of weights and best-so-far snapshots are deep copies. A tensor with a graph, kept in an attribute from an
    earlier call, cannot be copied.
    """
    require(copy.deepcopy(component) == component, "its copy is not equal to it", label(component))
    function, case = build(component), case_for(component)
    used, _ = case.with_gradient()
    result = call(component, used, function)
    require_same(call(component, used, copy.deepcopy(function)), result, "in its copy a value", used)
