"""The extension points. A plugin implements some of these hooks, each of which returns a list of component classes.

    from prefopt import hookimpl

    @hookimpl
    def prefopt_token_weightings():
        return [DecayWeighting]

and names its module under the entry-point group `prefopt`. The built-in components come in through the same hooks.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import TypeVar

import pluggy

from prefopt.component import (
    Component,
    Divergence,
    Named,
    PreferenceLoss,
    Regularizer,
    RewardShaping,
    TokenWeighting,
    Units,
)

__all__ = [
    "INTERFACE",
    "KINDS",
    "PROJECT",
    "concrete_classes",
    "hookimpl",
    "prefopt_divergences",
    "prefopt_preference_losses",
    "prefopt_regularizers",
    "prefopt_reward_shapings",
    "prefopt_scorers",
    "prefopt_tasks",
    "prefopt_token_weightings",
    "prefopt_units",
]

PROJECT = "prefopt"
"""The name of the plugin project and of the entry-point group."""

INTERFACE = 1
"""The version of the plugin interface: the hooks, and what a component has, is called with and returns.

It is raised when a plugin that keeps to the present version would no longer work: a hook or a kind is removed or
renamed, or a component has to have, take or return something else. A new hook, or a new method or field with a default,
does not raise it. A plugin module may state the versions that it supports as `PREFOPT_INTERFACE`, an int or a tuple.
"""

K = TypeVar("K", bound=Component)

hookimpl = pluggy.HookimplMarker(PROJECT)
"""The decorator of a plugin's hooks, the functions that return its components."""
hookspec = pluggy.HookspecMarker(PROJECT)


def concrete_classes(kind: type[K], *modules: ModuleType) -> list[type[K]]:
    """The concrete public classes of a kind that these modules define, in the order of their definitions."""
    return [
        value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
        if not inspect.isabstract(value) and not name.startswith("_")
    ]


@hookspec
def prefopt_token_weightings() -> list[type[TokenWeighting]]:  # type: ignore[empty-body]
    """The token weightings that this plugin brings."""


@hookspec
def prefopt_divergences() -> list[type[Divergence]]:  # type: ignore[empty-body]
    """The divergences that this plugin brings."""


@hookspec
def prefopt_reward_shapings() -> list[type[RewardShaping]]:  # type: ignore[empty-body]
    """The reward shapings that this plugin brings."""


@hookspec
def prefopt_units() -> list[type[Units]]:  # type: ignore[empty-body]
    """The units that this plugin brings."""


@hookspec
def prefopt_preference_losses() -> list[type[PreferenceLoss]]:  # type: ignore[empty-body]
    """The preference losses that this plugin brings."""


@hookspec
def prefopt_regularizers() -> list[type[Regularizer]]:  # type: ignore[empty-body]
    """The regularisers that this plugin brings."""


@hookspec
def prefopt_tasks() -> list[type[Named]]:  # type: ignore[empty-body]
    """The tasks of comparisons that this plugin brings: subclasses of `prefopt.tasks.Task`, which is defined above
    this module."""


@hookspec
def prefopt_scorers() -> list[type[Named]]:  # type: ignore[empty-body]
    """The scorers of responses that this plugin brings: subclasses of `prefopt.tasks.Scorer`, which is defined
    above this module."""


KINDS: tuple[type[Component], ...] = (TokenWeighting, Divergence, RewardShaping, Units, PreferenceLoss, Regularizer)
"""The kinds of component; the hook `kind.hook` brings those of a kind."""
