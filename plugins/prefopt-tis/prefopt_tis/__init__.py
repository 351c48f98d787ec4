"""Token weightings from two models that were asked before the training, and the command that asks them, for prefopt."""

from __future__ import annotations

from prefopt import TokenWeighting, hookimpl
from prefopt_tis.weightings import (
    ContrastWeighting,
    GuidedWeighting,
    TisRankWeighting,
    TisScaleWeighting,
    TisWeighting,
)

__all__ = ["ContrastWeighting", "GuidedWeighting", "TisRankWeighting", "TisScaleWeighting", "TisWeighting"]


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [TisWeighting, TisRankWeighting, TisScaleWeighting, GuidedWeighting, ContrastWeighting]
