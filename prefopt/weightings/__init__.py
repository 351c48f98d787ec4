"""Token weightings: how much each response token counts."""

from __future__ import annotations

from prefopt.component import TokenWeighting
from prefopt.hookspecs import hookimpl
from prefopt.weightings.activation import ActivationWeighting
from prefopt.weightings.column import ColumnWeighting
from prefopt.weightings.desensitised import LengthDesensitisedWeighting
from prefopt.weightings.position import PositionWeighting
from prefopt.weightings.random import RandomWeighting
from prefopt.weightings.shuffled import ShuffledWeighting
from prefopt.weightings.sparse import SparseMask, SparseWeighting
from prefopt.weightings.uniform import UniformWeighting

__all__ = [
    "ActivationWeighting",
    "ColumnWeighting",
    "LengthDesensitisedWeighting",
    "PositionWeighting",
    "RandomWeighting",
    "ShuffledWeighting",
    "SparseMask",
    "SparseWeighting",
    "UniformWeighting",
]


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [
        UniformWeighting,
        ActivationWeighting,
        SparseWeighting,
        LengthDesensitisedWeighting,
        ColumnWeighting,
        PositionWeighting,
        RandomWeighting,
        ShuffledWeighting,
    ]
