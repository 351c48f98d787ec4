"""Divergences of the policy from the reference at one position.

The exact ones are sums over the whole vocabulary; the sampled ones are estimates from the one token that stands there,
and their names say so.
"""

from __future__ import annotations

from prefopt.component import Divergence
from prefopt.divergences.exact import AlphaDivergence, ForwardKL, JensenShannon, ReverseKL, TotalVariation
from prefopt.divergences.sampled import SampledK1, SampledK2, SampledK3
from prefopt.hookspecs import hookimpl

__all__ = [
    "AlphaDivergence",
    "ForwardKL",
    "JensenShannon",
    "ReverseKL",
    "SampledK1",
    "SampledK2",
    "SampledK3",
    "TotalVariation",
]


@hookimpl
def prefopt_divergences() -> list[type[Divergence]]:
    return [
        ForwardKL,
        ReverseKL,
        JensenShannon,
        AlphaDivergence,
        TotalVariation,
        SampledK1,
        SampledK2,
        SampledK3,
    ]
