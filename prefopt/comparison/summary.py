"""From the records of a suite to its figures: means with intervals, and differences from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, final

import torch

from prefopt.comparison.controls import controls
from prefopt.comparison.records import Record
from prefopt.comparison.run import REFERENCE, Run
from prefopt.comparison.statistics import bootstrap, holm, paired_permutation
from prefopt.comparison.suite import Suite

__all__ = ["Difference", "Estimate", "Row", "compared", "differences", "estimate", "rows"]

Setting = tuple[tuple[str, str], ...]
"""Swept fields and their values, as text."""
ByItem = Mapping[str, float]

_RESAMPLES = 2000
"""Changes of sign of the differences of items, which are many."""


@final
@dataclass(frozen=True)
class Estimate:
    """The mean over seeds of a figure's mean over items, and its 95% bootstrap interval.

    over   what the interval draws again: the seeds, or, where there is one alone, its items. Of a single value there is
           no interval
    count  of the seeds in which the figure is defined
    """

    mean: float
    low: float | None
    high: float | None
    over: Literal["seeds", "items"]
    count: int


@final
@dataclass(frozen=True, eq=False)
class Row:
    """An objective at a setting: its records by seed, those that failed, and an estimate of each metric.

    control  None, or the name of the objective that this row is the control of, whose setting it has
    """

    name: str
    setting: Setting
    finished: Mapping[int, Record]
    failed: Mapping[int, Record]
    metrics: Mapping[str, Estimate]
    control: str | None = None


@final
@dataclass(frozen=True)
class Difference:
    """An objective's figure minus the baseline's at the same setting, over the seeds (and items) that both have.

    p_items   of a sign-change permutation test over the items of all seeds: of these trained policies. None where the
              figure is not one of items
    p_seeds   over the seeds' means: of objective and training; of S seeds it is at least 2^(1 - S)
    Both are given as they are, and adjusted by Holm for the objectives.
    """

    metric: str
    name: str
    setting: Setting
    estimate: Estimate
    p_items: float | None
    p_seeds: float
    holm_items: float | None = None
    holm_seeds: float = 1.0


def estimate(by_seed: Sequence[Sequence[float]]) -> Estimate | None:
    """by_seed: the values of the items in each seed; one value a seed where the figure is not one of items."""
    known = [values for values in by_seed if values]
    if not known:
        return None
    over_seeds = len(known) > 1
    drawn = [fmean(values) for values in known] if over_seeds else known[0]
    if len(drawn) == 1:
        return Estimate(drawn[0], None, None, "items", 1)
    found = bootstrap(torch.tensor(drawn, dtype=torch.float64), seed=0)
    return Estimate(found.mean, found.low, found.high, "seeds" if over_seeds else "items", len(known))


def rows(suite: Suite, records: Mapping[str, Record]) -> list[Row]:
    """One for the reference and for each objective at each setting, in the order of the suite; then the controls."""
    grouped: dict[tuple[str, str | None, Setting], list[Run]] = {}
    for run in (*suite.runs(), *controls(suite, records)):
        grouped.setdefault((run.name, run.control, run.place), []).append(run)
    found = []
    for (name, control, setting), runs in grouped.items():
        of_seeds = {run.seed: records[run.key] for run in runs if run.key in records}
        finished = {seed: record for seed, record in of_seeds.items() if record["error"] is None}
        failed = {seed: record for seed, record in of_seeds.items() if record["error"] is not None}
        metrics = {
            metric.name: known
            for metric in suite.metrics
            if (known := estimate([list(items(record, metric.name).values()) for record in finished.values()]))
        }
        found.append(Row(name, setting, finished, failed, metrics, control))
    return found


def items(record: Record, metric: str) -> ByItem:
    found: ByItem = record["values"].get(metric, {})
    return found


def differences(suite: Suite, table: Sequence[Row]) -> list[Difference]:
    """Of every metric, setting and objective but the baseline; adjusted for the objectives of a metric and setting.

    Controls have no part in it: each is there for the objective that it is the control of.
    """
    found = []
    for metric in suite.metrics:
        trained = [row for row in table if row.name != REFERENCE and row.control is None]
        for setting in dict.fromkeys(row.setting for row in trained):
            by_name = {
                row.name: {seed: items(record, metric.name) for seed, record in row.finished.items()}
                for row in trained
                if row.setting == setting
            }
            found += compared(metric.name, setting, by_name, suite.against, of_items=True)
    return found


def compared(
    metric: str, setting: Setting, by_name: Mapping[str, Mapping[int, ByItem]], baseline: str, *, of_items: bool
) -> list[Difference]:
    """by_name: objective -> seed -> item -> figure. Who shares no seed and item with the baseline is left out."""
    against = by_name.get(baseline, {})
    found = []
    for name, by_seed in by_name.items():
        if name == baseline:
            continue
        paired = [
            [of[item] - against[seed][item] for item in of if item in against[seed]]
            for seed, of in by_seed.items()
            if seed in against
        ]
        paired = [each for each in paired if each]
        if (known := estimate(paired)) is not None:
            p_items = _p([value for each in paired for value in each]) if of_items else None
            found.append(Difference(metric, name, setting, known, p_items, _p([fmean(each) for each in paired])))
    return _adjusted(found)


def _p(values: Sequence[float]) -> float:
    return paired_permutation(torch.tensor(values, dtype=torch.float64), seed=0, resamples=_RESAMPLES)


def _adjusted(found: Sequence[Difference]) -> list[Difference]:
    over_seeds = holm([each.p_seeds for each in found])
    over_items: Sequence[float | None] = [None] * len(found)
    if all(each.p_items is not None for each in found):
        over_items = holm([each.p_items for each in found if each.p_items is not None])
    return [
        replace(each, holm_items=of_items, holm_seeds=of_seeds)
        for each, of_items, of_seeds in zip(found, over_items, over_seeds, strict=True)
    ]
