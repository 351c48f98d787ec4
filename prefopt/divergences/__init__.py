"""Divergences of the policy from the reference at one position: exact over the vocabulary, or sampled."""

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
    exact: list[type[Divergence]] = [ForwardKL, ReverseKL, JensenShannon, AlphaDivergence, TotalVariation]
    return [*exact, SampledK1, SampledK2, SampledK3]
