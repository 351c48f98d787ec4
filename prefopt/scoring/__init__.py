"""Scoring: models and a PreferenceBatch in, a TokenBatch out."""

from __future__ import annotations

from prefopt.scoring.cached import ReferenceCache, response_key
from prefopt.scoring.checks import NonFiniteError
from prefopt.scoring.head import Head, UnsupportedHeadError
from prefopt.scoring.model import PreferenceModel
from prefopt.scoring.statistics import TokenStatistics, dense_statistics, token_statistics
from prefopt.scoring.store import StoreError
from prefopt.scoring.workspace import Workspace

__all__ = [
    "Head",
    "NonFiniteError",
    "PreferenceModel",
    "ReferenceCache",
    "StoreError",
    "TokenStatistics",
    "UnsupportedHeadError",
    "Workspace",
    "dense_statistics",
    "response_key",
    "token_statistics",
]
