"""prefopt's objectives, through PreferenceModel."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

from benchmarks.speed.contender import Contender, differentiated, named
from benchmarks.speed.setting import Setting, batches, models, objective
from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring import PreferenceModel

__all__ = ["cached", "ours"]


def ours(config: ObjectiveConfig, **options: Any) -> Callable[[Setting], Contender]:
    """The builder for an objective; `options` are those of PreferenceModel."""

    def build(setting: Setting) -> Contender:
        policy, reference = models(setting)
        model = PreferenceModel(policy, reference, objective(config, setting), **options)
        given = batches(setting)
        return Contender(differentiated(lambda batch: model(given[batch]).loss), named(policy, model.objective))

    return build


def cached(config: ObjectiveConfig) -> Callable[[Setting], Contender]:
    """The builder for an objective in its later epochs, when the reference cache holds all."""

    def build(setting: Setting) -> Contender:
        folder = tempfile.mkdtemp()
        policy, reference = models(setting)
        model = PreferenceModel(policy, reference, objective(config, setting), reference_cache=folder)
        weakref.finalize(model, shutil.rmtree, folder)
        given = batches(setting)
        for batch in given:
            model.precompute_reference(batch)
        assert model.cache is not None
        model.cache.store.flush()

        return Contender(differentiated(lambda batch: model(given[batch]).loss), named(policy, model.objective))

    return build
