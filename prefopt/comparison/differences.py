"""Differences of objectives, paired by seed and held-out item, and what they are judged by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean
from typing import final

import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.run import control_name
from prefopt.comparison.statistics import LEVEL, holm, most_seeds, paired_permutation, paired_t
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Basis, Estimate, Setting, basis, estimate, items_by_seed

_RESAMPLES = 2000
"""Changes of sign of the differences of items, which are many."""


@final
@dataclass(frozen=True)
class Difference:
    """An objective's figure minus an opponent's at the same setting, over the seeds (and items) that both have.

    by_seed  the mean difference in each of these seeds
    p_items  of the sign-flip test over items: of these trained policies alone. None where a figure has one value a seed
    p_signs  of the sign-flip test over seeds, which is exact: at least 2^(1 - S) of S seeds
    p_t      of the paired t test over seeds; None where the seeds' differences are equal
    p        what the difference is judged by. Over seeds the larger of p_signs and p_t, p_t adjusted by Holm for the
             differences that are judged together (p_signs where there is no p_t); over items p_items, adjusted
    """

    metric: str
    name: str
    against: str
    setting: Setting
    estimate: Estimate
    by_seed: Sequence[float]
    p_items: float | None
    p_signs: float
    p_t: float | None
    p: float = 1.0

    @property
    def told(self) -> bool:
        """Whether it can be told from chance."""
        return self.p < LEVEL


def opponents(suite: Suite) -> dict[str, str]:
    """Every objective's opponent in the comparison with the baseline."""
    return {name: suite.against for name in suite.objectives if name != suite.against}


def own_controls(suite: Suite) -> dict[str, str]:
    """Every objective's opponent in the comparison with controls, which not every objective has."""
    return {name: control_name(name) for name in suite.objectives}


def differences(values: pd.DataFrame, against: Mapping[str, str]) -> list[Difference]:
    """The differences of objectives from their opponents, `against`: objective -> opponent, in a results frame.

    Judged together: those at one setting of one metric.
    """
    families: dict[tuple[str, Setting], list[Difference]] = {}
    for difference in paired(values, against, basis(values)):
        families.setdefault((difference.metric, difference.setting), []).append(difference)
    return [difference for family in families.values() for difference in adjusted(family)]


def paired(values: pd.DataFrame, against: Mapping[str, str], over: Basis) -> list[Difference]:
    """The differences in a results frame, not yet adjusted.

    Paired by item within seed and setting; an objective that shares no item with its opponent is left out.
    """
    keys = ["metric", "setting", "seed", "item"]
    pairs = values.assign(against=values["objective"].map(against).astype(object)).merge(
        values, left_on=[*keys, "against"], right_on=[*keys, "objective"], suffixes=("", "_opponent")
    )
    pairs["difference"] = pairs["value"] - pairs["value_opponent"]
    groups = pairs.groupby(["metric", "setting", "objective", "against"], sort=False)
    return [_difference(key, group, over) for key, group in groups]


def _difference(key: tuple[str, Setting, str, str], group: pd.DataFrame, over: Basis) -> Difference:
    metric, setting, name, opponent = key
    by_item = items_by_seed(group, "difference")
    by_seed = [fmean(values) for values in by_item]
    p_signs = paired_permutation(by_seed, seed=0, resamples=_RESAMPLES)
    p_items = None
    if (group["item"] != "").all():
        items = [value for values in by_item for value in values]
        p_items = paired_permutation(items, seed=0, resamples=_RESAMPLES)
    return Difference(
        metric, name, opponent, setting, estimate(by_item, over), by_seed, p_items, p_signs, paired_t(by_seed)
    )


def adjusted(family: Sequence[Difference], tries: Mapping[str, int] | None = None) -> list[Difference]:
    """The differences that are judged together, with the p that they are judged by.

    tries  objective -> among how many differences its own was chosen for its size
    """
    factors = [(tries or {}).get(d.name, 1) for d in family]
    tests = [d.p_t if d.estimate.over == "seeds" else d.p_items for d in family]
    p_values = [d.p_signs if p is None else p for d, p in zip(family, tests, strict=True)]
    p_values = holm([min(1.0, factor * p) for factor, p in zip(factors, p_values, strict=True)])
    return [
        replace(d, p=max(p, d.p_signs) if d.estimate.over == "seeds" else p)
        for d, p in zip(family, p_values, strict=True)
    ]


def comparable(values: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The lines of a results frame of one figure that are compared: on the seeds and items that all in them have."""
    names, seeds = compared(
        {name: set(group["seed"]) for name, group in values.groupby("objective", sort=False)}, baseline
    )
    lines = values[values["objective"].isin(names) & values["seed"].isin(seeds)]
    return lines[lines.groupby(["seed", "item"])["objective"].transform("size") == len(names)]


def compared(seeds: Mapping[str, Collection[int]], baseline: str) -> tuple[list[str], set[int]]:
    """Which of the objectives are compared, and on which seeds, by the seeds that each has.

    Left out are objectives without most of the baseline's seeds (of all, where it has none), see `most_seeds`, so that
    one that misses seeds does not take these from the others.
    """
    shared = set(seeds.get(baseline) or chain.from_iterable(seeds.values()))
    enough = most_seeds(len(shared))
    names = []
    for name in sorted(seeds, key=lambda name: (name != baseline, -len(seeds[name]))):
        if seeds[name] and len(shared.intersection(seeds[name])) >= enough:
            shared.intersection_update(seeds[name])
            names.append(name)
    return names, shared
