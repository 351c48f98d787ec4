"""Scoring: models and a PreferenceBatch in, a TokenBatch out."""

from __future__ import annotations

from prefopt.scoring.finite import NonFiniteError, all_finite, raise_non_finite
from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.head import Head, UnsupportedHeadError
from prefopt.scoring.lm_head.token_statistics import TokenStatistics, dense_statistics, token_statistics
from prefopt.scoring.model import PreferenceModel
from prefopt.scoring.reference.cache import ReferenceCache, response_key
from prefopt.scoring.reference.tensor_store import StoreError
from prefopt.scoring.trace import Location, trace_batch, trace_gradients

__all__ = [
    "BufferPool",
    "Head",
    "Location",
    "NonFiniteError",
    "PreferenceModel",
    "ReferenceCache",
    "StoreError",
    "TokenStatistics",
    "UnsupportedHeadError",
    "all_finite",
    "dense_statistics",
    "raise_non_finite",
    "response_key",
    "token_statistics",
    "trace_batch",
    "trace_gradients",
]
