"""Scoring: models and a PreferenceBatch in, a TokenBatch out."""

from __future__ import annotations

from prefopt.scoring.checks import NonFiniteError
from prefopt.scoring.head import Head, UnsupportedHeadError
from prefopt.scoring.model import PreferenceModel
from prefopt.scoring.statistics import TokenStatistics, Workspace, dense_statistics, token_statistics

__all__ = [
    "Head",
    "NonFiniteError",
    "PreferenceModel",
    "TokenStatistics",
    "UnsupportedHeadError",
    "Workspace",
    "dense_statistics",
    "token_statistics",
]
