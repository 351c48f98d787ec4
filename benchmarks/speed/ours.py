"""prefopt's objectives, through PreferenceModel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.speed.contender import Contender, differentiated, named
from benchmarks.speed.setting import Setting, batches, models, objective
from prefopt.objective import ObjectiveConfig
from prefopt.scoring import PreferenceModel

__all__ = ["ours"]


def ours(config: ObjectiveConfig, **options: Any) -> Callable[[Setting], Contender]:
    """The builder for an objective; `options` are those of PreferenceModel."""

    def build(setting: Setting) -> Contender:
        policy, reference = models(setting)
        model = PreferenceModel(policy, reference, objective(config, setting), **options)
        given = batches(setting)
        return Contender(differentiated(lambda batch: model(given[batch]).loss), named(policy, model.objective))

    return build
