"""Token weightings: how much each response token counts."""

from __future__ import annotations

from prefopt.component import TokenWeighting
from prefopt.hookspecs import concrete_classes, hookimpl
from prefopt.weightings import (
    ablations,
    activation,
    budgets,
    certainty,
    column,
    difference,
    importance,
    lengths,
    mixed,
    position,
    transport,
    uniform,
)
from prefopt.weightings.ablations import *
from prefopt.weightings.activation import *
from prefopt.weightings.budgets import *
from prefopt.weightings.certainty import *
from prefopt.weightings.column import *
from prefopt.weightings.difference import *
from prefopt.weightings.importance import *
from prefopt.weightings.lengths import *
from prefopt.weightings.mixed import *
from prefopt.weightings.position import *
from prefopt.weightings.sparse import *
from prefopt.weightings.sparse import config as sparse_config
from prefopt.weightings.transport import *
from prefopt.weightings.uniform import *

_WEIGHTINGS = concrete_classes(
    TokenWeighting,
    ablations,
    activation,
    budgets,
    certainty,
    column,
    difference,
    importance,
    lengths,
    mixed,
    position,
    sparse_config,
    transport,
    uniform,
)

__all__ = sorted(component.__name__ for component in _WEIGHTINGS)


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return _WEIGHTINGS
