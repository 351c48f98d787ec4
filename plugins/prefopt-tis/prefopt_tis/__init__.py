"""Token weightings from two models that were asked before the training, the command that asks them, and a
task whose pairs models of its own were asked about, for prefopt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefopt import TokenWeighting, hookimpl
from prefopt_tis.weightings import (
    ContrastWeighting,
    GuidedWeighting,
    TisRankWeighting,
    TisScaleWeighting,
    TisWeighting,
)

if TYPE_CHECKING:
    from prefopt.tasks import Task

__all__ = ["ContrastWeighting", "GuidedWeighting", "TisRankWeighting", "TisScaleWeighting", "TisWeighting"]


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [TisWeighting, TisRankWeighting, TisScaleWeighting, GuidedWeighting, ContrastWeighting]


@hookimpl
def prefopt_tasks() -> list[type[Task]]:
    from prefopt_tis.task import ScoredTask  # loads the trainer, which weightings do without

    return [ScoredTask]
