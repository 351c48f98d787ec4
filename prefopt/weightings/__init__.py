"""Token weightings: how much each response token counts."""

from __future__ import annotations

from prefopt.component import TokenWeighting
from prefopt.hookspecs import concrete_classes, hookimpl
from prefopt.weightings import ablations, activation, column, desensitised, position, uniform
from prefopt.weightings.ablations import *
from prefopt.weightings.activation import *
from prefopt.weightings.column import *
from prefopt.weightings.desensitised import *
from prefopt.weightings.position import *
from prefopt.weightings.sparse import *
from prefopt.weightings.sparse import config as sparse_config
from prefopt.weightings.uniform import *

_WEIGHTINGS = concrete_classes(
    TokenWeighting, ablations, activation, column, desensitised, position, sparse_config, uniform
)

__all__ = sorted(component.__name__ for component in _WEIGHTINGS)


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return _WEIGHTINGS
