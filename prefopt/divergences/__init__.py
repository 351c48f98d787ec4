"""Divergences of the policy from the reference at one position: exact over the vocabulary, or sampled."""

from __future__ import annotations

from prefopt.component import Divergence
from prefopt.divergences import exact, sampled
from prefopt.divergences.exact import *
from prefopt.divergences.sampled import *
from prefopt.hookspecs import concrete_classes, hookimpl

_DIVERGENCES = concrete_classes(Divergence, exact, sampled)  # type: ignore[type-abstract]

__all__ = sorted(component.__name__ for component in _DIVERGENCES)


@hookimpl
def prefopt_divergences() -> list[type[Divergence]]:
    return _DIVERGENCES
