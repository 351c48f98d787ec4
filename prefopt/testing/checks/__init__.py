"""The checks, by what they look at."""

from __future__ import annotations

from prefopt.testing.check import Check
from prefopt.testing.checks import (
    configuration,
    divergences,
    independence,
    reading,
    results,
    rewards,
    units,
    weightings,
)

__all__ = ["CHECKS"]

_MODULES = (configuration, results, independence, reading, weightings, divergences, rewards, units)

CHECKS: tuple[Check, ...] = tuple(
    value for module in _MODULES for value in vars(module).values() if isinstance(value, Check)
)
"""Every check, in the order in which they are listed."""
