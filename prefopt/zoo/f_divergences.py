"""The family of f-DPO: DPO with another divergence than the reverse KL in its constraint.

Written out below, r is log pi - log pi_ref of a response token, c the chosen response, j the rejected one, and sums run
over response tokens.
"""

from __future__ import annotations

from prefopt.objective_config import ObjectiveConfig
from prefopt.shapings import AlphaShaping, ForwardKLShaping, JensenShannonShaping
from prefopt.zoo.parameters import checked


@checked
def f_dpo_reverse_kl(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (sum r_c - sum r_j)).

    f-DPO with the reverse KL, which is DPO: the row `dpo` under the name that it has in this family. Source: arXiv
    2309.16240, table 1.
    """
    return ObjectiveConfig(beta=beta)


@checked
def f_dpo_forward_kl(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (exp(-sum r_j) - exp(-sum r_c))).

    f-DPO with the forward KL. Beyond an exponent of 30 the exponential goes on as its tangent, so that nothing
    overflows. Source: arXiv 2309.16240, table 1.

    Differs: TRL has no bound on the exponential: a log-ratio of -100 gives it an infinite loss or NaN in float32.
    """
    return ObjectiveConfig(beta=beta, shaping=ForwardKLShaping())


@checked
def f_dpo_jensen_shannon(beta: float = 0.1) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (log sigmoid(sum r_c) - log sigmoid(sum r_j))).

    f-DPO with the Jensen-Shannon divergence. Source: arXiv 2309.16240, table 1.
    """
    return ObjectiveConfig(beta=beta, shaping=JensenShannonShaping())


@checked
def f_dpo_alpha(beta: float = 0.1, alpha: float = 0.5) -> ObjectiveConfig:
    """loss = -log sigmoid(beta (f_c - f_j)), f = (exp((alpha - 1) sum r) - 1) / (alpha - 1).

    f-DPO with an alpha divergence: the forward KL's at alpha 0, DPO as alpha -> 1. Beyond an exponent of 30 the
    exponential goes on as its tangent. Source: arXiv 2309.16240, table 1.

    Differs: TRL cuts the exponent off at 80, where the gradient ends.
    """
    return ObjectiveConfig(beta=beta, shaping=AlphaShaping(a=alpha))
