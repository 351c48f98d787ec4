"""From the records of a suite to its figures: means with intervals, and differences from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, final

import torch

from prefopt.comparison.controls import controls
from prefopt.comparison.run import REFERENCE, Run, as_text, control_name
from prefopt.comparison.run_log import Record
from prefopt.comparison.statistics import bootstrap, holm, paired_permutation
from prefopt.comparison.suite import Suite

__all__ = [
    "Difference",
    "Estimate",
    "Row",
    "compared",
    "differences",
    "estimate",
    "grouped",
    "items",
    "opponents",
    "own_controls",
    "rows",
    "what_masks_add",
]

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
    """An objective's figure minus an opponent's at the same setting, over the seeds (and items) that both have.

    against   the opponent: the baseline, or the objective's own control
    p_items   of a sign-change permutation test over the items of all seeds: of these trained policies. None where the
              figure is not one of items
    p_seeds   over the seeds' means: of objective and training; of S seeds it is at least 2^(1 - S)
    Both are given as they are, and adjusted by Holm for the objectives.
    """

    metric: str
    name: str
    against: str
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
    """One for the reference and for each objective at each setting, in the order of the suite, and below those of an
    objective the ones of its control."""
    grouped: dict[tuple[str, str | None, Setting], list[Run]] = {}
    for run in (*suite.runs(), *controls(suite, records)):
        grouped.setdefault((run.name, run.control, run.place), []).append(run)
    order = [REFERENCE, *suite.objectives]
    found = []
    for name, control, setting in sorted(grouped, key=lambda key: (order.index(key[1] or key[0]), key[1] is not None)):
        runs = grouped[name, control, setting]
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


def grouped(suite: Suite, table: Sequence[Row], *, along: str | None = None) -> dict[Setting, list[Row]]:
    """The trained rows that belong side by side, by what is swept, the field `along` aside.

    Those of one setting, where all objectives sweep the same values. An objective's own values, by which it goes as far
    as others do by theirs, take the place of these: first beside first, and so on; "no. 1" then stands for the value.
    """
    found: dict[tuple[int, ...], list[Row]] = {}
    for row in table:
        if row.name != REFERENCE:
            own = suite.sweeps | suite.objectives[row.control or row.name].sweeps
            places = (list(map(as_text, own[field])).index(value) for field, value in row.setting if field != along)
            found.setdefault(tuple(places), []).append(row)
    fields = [field for field in suite.sweeps if field != along]
    own_values = {field for entrant in suite.objectives.values() for field in entrant.sweeps}
    return {
        tuple(
            (field, f"no. {place + 1}" if field in own_values else dict(rows[0].setting)[field])
            for field, place in zip(fields, places, strict=True)
        ): rows
        for places, rows in found.items()
    }


def items(record: Record, metric: str) -> ByItem:
    found: ByItem = record["values"].get(metric, {})
    return found


def differences(suite: Suite, table: Sequence[Row]) -> list[Difference]:
    """Of every metric, setting and objective from the baseline; adjusted for the objectives of a metric and setting."""
    return _of_items(suite, table, opponents(suite))


def what_masks_add(suite: Suite, table: Sequence[Row]) -> list[Difference]:
    """Of every metric, setting and masked objective from its own control; adjusted likewise."""
    return _of_items(suite, table, own_controls(suite))


def opponents(suite: Suite) -> dict[str, str]:
    """Every objective's opponent in the comparison with the baseline."""
    return {name: suite.against for name in suite.objectives if name != suite.against}


def own_controls(suite: Suite) -> dict[str, str]:
    """Every objective's opponent in the comparison with controls, which not every one has."""
    return {name: control_name(name) for name in suite.objectives}


def _of_items(suite: Suite, table: Sequence[Row], against: Mapping[str, str]) -> list[Difference]:
    found = []
    for metric in suite.metrics:
        for setting in dict.fromkeys(row.setting for row in table if row.name != REFERENCE):
            by_name = {
                row.name: {seed: items(record, metric.name) for seed, record in row.finished.items()}
                for row in table
                if row.setting == setting and row.name != REFERENCE
            }
            found += compared(metric.name, setting, by_name, against, of_items=True)
    return found


def compared(
    metric: str,
    setting: Setting,
    by_name: Mapping[str, Mapping[int, ByItem]],
    against: Mapping[str, str],
    *,
    of_items: bool,
) -> list[Difference]:
    """by_name: objective -> seed -> item -> figure; against: objective -> its opponent.

    Who shares no seed and item with the opponent is left out.
    """
    found = []
    for name, opponent in against.items():
        ours, theirs = by_name.get(name, {}), by_name.get(opponent, {})
        paired = [
            [of[item] - theirs[seed][item] for item in of if item in theirs[seed]]
            for seed, of in ours.items()
            if seed in theirs
        ]
        paired = [each for each in paired if each]
        if (known := estimate(paired)) is not None:
            p_items = _p([value for each in paired for value in each]) if of_items else None
            p_seeds = _p([fmean(each) for each in paired])
            found.append(Difference(metric, name, opponent, setting, known, p_items, p_seeds))
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
