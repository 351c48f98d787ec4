"""prefopt: the zoo of preference-optimisation objectives for language models, as settings of six slots.

Names are imported on first use: `import prefopt` costs nothing, `from prefopt import Objective` torch and pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefopt import zoo
    from prefopt.columns import Column, PairColumn, TokenColumn
    from prefopt.component import (
        Divergence,
        ExactDivergence,
        PreferenceLoss,
        Regularizer,
        RewardShaping,
        SampledDivergence,
        StreamedDivergence,
        TokenWeighting,
        Units,
    )
    from prefopt.hookspecs import hookimpl
    from prefopt.objective import Objective, ObjectiveOutput
    from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
    from prefopt.registry import available, resolve
    from prefopt.signals import Signal
    from prefopt.tokens import PreferenceBatch, TokenBatch, masked_mean, masked_sum

__all__ = [
    "Column",
    "Divergence",
    "DivergenceTerm",
    "ExactDivergence",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveOutput",
    "PairColumn",
    "PreferenceBatch",
    "PreferenceLoss",
    "Regularizer",
    "RewardShaping",
    "SampledDivergence",
    "Signal",
    "StreamedDivergence",
    "TokenBatch",
    "TokenColumn",
    "TokenWeighting",
    "Units",
    "available",
    "hookimpl",
    "masked_mean",
    "masked_sum",
    "resolve",
    "zoo",
]

# Searched in this order, lower layers first, for the names of __all__; a test compares them with the block above.
_MODULES = ("columns", "signals", "tokens", "component", "hookspecs", "registry", "objective_config", "objective")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "zoo":
        return import_module("prefopt.zoo")
    modules = (import_module(f"prefopt.{module}") for module in _MODULES)
    value = next(getattr(module, name) for module in modules if name in module.__all__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
