"""The results frame of a suite and what is computed from it: means with intervals, and differences with p values.

The frame has a line for each finished run, metric and held-out item; its columns are `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, final

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.controls import controls
from prefopt.comparison.run import REFERENCE, Run, as_text, control_name
from prefopt.comparison.run_log import Record
from prefopt.comparison.statistics import bootstrap, holm, paired_permutation, seed_intervals
from prefopt.comparison.suite import Suite

COLUMNS = ("metric", "setting", "objective", "seed", "item", "value")
"""item: the held-out item; "" where a figure has one value a seed."""

Setting = tuple[tuple[str, str], ...]
"""Swept fields and their values, as text."""

_RESAMPLES = 2000
"""Changes of sign of the differences of items, which are many."""


@final
@dataclass(frozen=True)
class Estimate:
    """The mean over seeds of a figure's mean over items, and its 95% interval.

    over   what the interval is over: seeds (Student's t), or, with one seed, its items (bootstrap). A single value has
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
    p_items   of a sign-flip permutation test over the items of all seeds: of these trained policies. None where the
              figure has one value a seed
    p_seeds   of the same test over the seeds' means: of objective and training. At least 2^(1 - S) of S seeds
    holm_*    adjusted by Holm for the objectives that are compared at one setting of one metric
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


def rows(suite: Suite, records: Mapping[str, Record]) -> tuple[list[Row], pd.DataFrame]:
    """The rows and the results frame of a suite.

    Rows: the reference, then each objective at each setting, in the order of the suite, its controls after it.
    """
    runs: dict[tuple[str, str | None, Setting], list[Run]] = {}
    for run in (*suite.runs(), *controls(suite, records)):
        runs.setdefault((run.name, run.control, run.setting_text), []).append(run)
    order = [REFERENCE, *suite.objectives]
    table = []
    for name, control, setting in sorted(runs, key=lambda key: (order.index(key[1] or key[0]), key[1] is not None)):
        by_seed = {run.seed: records[run.key] for run in runs[name, control, setting] if run.key in records}
        finished = {seed: record for seed, record in by_seed.items() if record["error"] is None}
        failed = {seed: record for seed, record in by_seed.items() if record["error"] is not None}
        table.append(Row(name, setting, finished, failed, {}, control))
    settings = list(dict.fromkeys(row.setting for row in table))
    values = frame(
        (metric.name, row.setting, row.name, seed, item, value)
        for metric in suite.metrics
        for row in sorted(table, key=lambda row: settings.index(row.setting))
        for seed, record in row.finished.items()
        for item, value in record["values"].get(metric.name, {}).items()
    )
    metrics: dict[tuple[Setting, str], dict[str, Estimate]] = {}
    for (metric_name, setting, name), figure in estimates(values).items():
        metrics.setdefault((setting, name), {})[metric_name] = figure
    return [replace(row, metrics=metrics.get((row.setting, row.name), {})) for row in table], values


def frame(lines: Iterable[tuple[str, Setting, str, int, str, float]]) -> pd.DataFrame:
    return pd.DataFrame(list(lines), columns=list(COLUMNS))


def estimates(values: pd.DataFrame) -> dict[tuple[str, Setting, str], Estimate]:
    """The estimate of each (metric, setting, objective) of a results frame."""
    groups = values.groupby(["metric", "setting", "objective"], sort=False)
    return {key: estimate(_by_seed(group, "value")) for key, group in groups}


def estimate(by_seed: Sequence[Sequence[float]]) -> Estimate:
    """The estimate of a figure from its values of items in each seed; one value a seed for a figure without items."""
    if len(by_seed) > 1:
        means = [fmean(values) for values in by_seed]
        low, high = seed_intervals(np.array(means))
        return Estimate(fmean(means), float(low), float(high), "seeds", len(by_seed))
    (values,) = by_seed
    if len(values) == 1:
        return Estimate(values[0], None, None, "items", 1)
    low, high = bootstrap(np.array(values))
    return Estimate(fmean(values), float(low), float(high), "items", 1)


def _by_seed(group: pd.DataFrame, column: str) -> list[list[float]]:
    return [values.tolist() for _, values in group.groupby("seed", sort=False)[column]]


def grouped(suite: Suite, table: Sequence[Row], *, along: str | None = None) -> dict[Setting, list[Row]]:
    """The trained rows that belong side by side, by what is swept, the field `along` aside.

    By setting where all objectives sweep the same values; else by position in their sweeps: first values side by side,
    and so on, "no. 1" standing for the value.
    """
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in table:
        if row.name != REFERENCE:
            sweeps = suite.sweeps | suite.objectives[row.control or row.name].sweeps
            positions = (
                list(map(as_text, sweeps[field])).index(value) for field, value in row.setting if field != along
            )
            groups.setdefault(tuple(positions), []).append(row)
    fields = [field for field in suite.sweeps if field != along]
    unequal = {field for entrant in suite.objectives.values() for field in entrant.sweeps}
    return {
        tuple(
            (field, f"no. {position + 1}" if field in unequal else dict(rows[0].setting)[field])
            for field, position in zip(fields, positions, strict=True)
        ): rows
        for positions, rows in groups.items()
    }


def opponents(suite: Suite) -> dict[str, str]:
    """Every objective's opponent in the comparison with the baseline."""
    return {name: suite.against for name in suite.objectives if name != suite.against}


def own_controls(suite: Suite) -> dict[str, str]:
    """Every objective's opponent in the comparison with controls, which not every objective has."""
    return {name: control_name(name) for name in suite.objectives}


def differences(values: pd.DataFrame, against: Mapping[str, str]) -> list[Difference]:
    """The differences of objectives from their opponents, `against`: objective -> opponent, in a results frame.

    Paired by item within seed and setting; an objective that shares no item with its opponent is left out.
    """
    keys = ["metric", "setting", "seed", "item"]
    pairs = values.assign(against=values["objective"].map(against).astype(object)).merge(
        values, left_on=[*keys, "against"], right_on=[*keys, "objective"], suffixes=("", "_opponent")
    )
    pairs["difference"] = pairs["value"] - pairs["value_opponent"]
    results = []
    for (metric, setting), family in pairs.groupby(["metric", "setting"], sort=False):
        results += _adjusted(
            _difference(metric, name, opponent, setting, group)
            for (name, opponent), group in family.groupby(["objective", "against"], sort=False)
        )
    return results


def _difference(metric: str, name: str, opponent: str, setting: Setting, group: pd.DataFrame) -> Difference:
    by_seed = _by_seed(group, "difference")
    p_seeds = paired_permutation([fmean(values) for values in by_seed], seed=0, resamples=_RESAMPLES)
    p_items = None
    if (group["item"] != "").all():
        p_items = paired_permutation([value for values in by_seed for value in values], seed=0, resamples=_RESAMPLES)
    return Difference(metric, name, opponent, setting, estimate(by_seed), p_items, p_seeds)


def _adjusted(family: Iterable[Difference]) -> list[Difference]:
    """The differences with p values adjusted for their number."""
    family = list(family)
    over_seeds = holm([difference.p_seeds for difference in family])
    p_items = [difference.p_items for difference in family if difference.p_items is not None]
    over_items = holm(p_items) if len(p_items) == len(family) else [None] * len(family)
    return [
        replace(difference, holm_items=items, holm_seeds=seeds)
        for difference, items, seeds in zip(family, over_items, over_seeds, strict=True)
    ]
