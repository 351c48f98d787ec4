"""The results frame of a suite, and means with intervals that are computed from it.

The frame has a line for each finished run, metric and held-out item; its columns are `COLUMNS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, final

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.controls import controls
from prefopt.comparison.run import REFERENCE, Run, as_text
from prefopt.comparison.run_log import Record
from prefopt.comparison.statistics import t_intervals
from prefopt.comparison.suite import Suite

COLUMNS = ("metric", "setting", "objective", "seed", "item", "value")
"""item: the held-out item; "" where a figure has one value a seed."""

Basis = Literal["seeds", "items"]
"""What intervals and tests are over: seeds, or, where there is one, its held-out items."""

Setting = tuple[tuple[str, str], ...]
"""Swept fields and their values, as text."""


@final
@dataclass(frozen=True)
class Estimate:
    """The mean over seeds of a figure's mean over items, and its 95% interval (Student's t).

    over   what the interval is over; a single value has none
    count  of the seeds in which the figure is defined
    """

    mean: float
    low: float | None
    high: float | None
    over: Basis
    count: int

    @property
    def is_zero(self) -> bool:
        """Whether it is 0 throughout."""
        return self.mean == 0 and not self.low and not self.high


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
        if is_finite(record, metric.name)
        for item, value in record["values"].get(metric.name, {}).items()
    )
    metrics: dict[tuple[Setting, str], dict[str, Estimate]] = {}
    for (metric_name, setting, name), figure in estimates(values, basis(values)).items():
        metrics.setdefault((setting, name), {})[metric_name] = figure
    return [replace(row, metrics=metrics.get((row.setting, row.name), {})) for row in table], values


def is_finite(record: Record, metric: str) -> bool:
    """Whether the run's figure is finite on all items; if not, the run is as one that lacks the metric."""
    return all(map(math.isfinite, record["values"].get(metric, {}).values()))


def frame(lines: Iterable[tuple[str, Setting, str, int, str, float]]) -> pd.DataFrame:
    return pd.DataFrame(list(lines), columns=list(COLUMNS))


def basis(values: pd.DataFrame) -> Basis:
    """What the intervals and tests of a results frame are over, all of them."""
    return "seeds" if values["seed"].nunique() > 1 else "items"


def estimates(values: pd.DataFrame, over: Basis) -> dict[tuple[str, Setting, str], Estimate]:
    """The estimate of each (metric, setting, objective) of a results frame."""
    groups = values.groupby(["metric", "setting", "objective"], sort=False)
    return {key: estimate(items_by_seed(group, "value"), over) for key, group in groups}


def estimate(by_seed: Sequence[Sequence[float]], over: Basis) -> Estimate:
    """The estimate of a figure from its values of items in each seed; one value a seed for a figure without items."""
    values = [fmean(items) for items in by_seed] if over == "seeds" else by_seed[0]
    if len(values) == 1:
        return Estimate(values[0], None, None, over, len(by_seed))
    low, high = t_intervals(np.array(values))
    return Estimate(fmean(values), float(low), float(high), over, len(by_seed))


def items_by_seed(group: pd.DataFrame, column: str) -> list[list[float]]:
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
