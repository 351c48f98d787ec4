"""The statistics that an objective asks for, from whatever there is to take them of."""

from __future__ import annotations

from torch import Tensor

from prefopt.component import Signal
from prefopt.objective import ObjectiveConfig
from prefopt.scoring.forward import ModelStates
from prefopt.scoring.lm_head.buffer_pool import Workspace
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.token_statistics import TokenStatistics, dense_statistics, token_statistics

__all__ = ["asked_statistics"]


def asked_statistics(
    config: ObjectiveConfig,
    hidden: Tensor,
    head: Head | None,
    reference: ModelStates | None,
    ref_head: Head | None,
    labels: Tensor,
    *,
    budget: int,
    workspace: Workspace,
    into: HeadGradient | None = None,
) -> TokenStatistics:
    """hidden [M, H] of the policy; without a head, the logits [M, V] of the plain call. labels [M].

    The reference's log-probabilities may be known already, as from a cache. `budget`, `workspace` and `into` are those
    of `token_statistics`.
    """
    exact, log_collision = config.exact_divergence, Signal.LOG_COLLISION in config.requires
    ref_final = None if reference is None else reference.final
    if head is None:
        found = dense_statistics(hidden, ref_final, labels, exact, log_collision=log_collision)
    else:
        found = token_statistics(
            hidden,
            head,
            ref_final,
            None if ref_final is None else ref_head,
            labels,
            exact,
            log_collision=log_collision,
            budget=budget,
            workspace=workspace,
            into=into,
        )
    if reference is not None and reference.logps is not None:
        found = found._replace(ref_logps=reference.logps)
    if config.divergence is not None and exact is None:
        found = found._replace(divergence=config.divergence.measure(found.logps, found.ref_logps))
    return found
