"""prefopt: the zoo of preference-optimisation objectives for language models, as settings of five slots."""

from __future__ import annotations

from prefopt import zoo
from prefopt.objective import DivergenceTerm, Objective, ObjectiveConfig, ObjectiveOutput
from prefopt.registry import available, resolve
from prefopt.tokens import PreferenceBatch, TokenBatch, masked_mean, masked_sum

__all__ = [
    "DivergenceTerm",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveOutput",
    "PreferenceBatch",
    "TokenBatch",
    "available",
    "masked_mean",
    "masked_sum",
    "resolve",
    "zoo",
]
