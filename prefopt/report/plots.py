"""The plots of a comparison, each defined once: for the page, the PNG and the CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import final

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.results import Results
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.run_log import Record
from prefopt.comparison.statistics import t_intervals
from prefopt.comparison.summary import Estimate, Row, Setting, grouped
from prefopt.report.format import spaced

PLOTS = ("frontier", "sparsity", "divergence", "curves")
"""The names of the plots there may be."""

_CURVES = {
    "loss": "Loss, with all regularisers",
    "rewards/margins": "Reward margin, chosen - rejected",
    "rewards/accuracies": "Share of pairs ranked right",
    "weights/sparsity": "Share of weights w at zero",
}
_PROFILES = {"divergence/chosen": "Chosen responses", "divergence/rejected": "Rejected responses"}
_WEIGHTS = {
    "w": {"sparsity_w": "Share of weights w at zero", "mean_w": "Mean weight w"},
    "v": {"sparsity_v": "Share of weights v at zero", "mean_v": "Mean weight v"},
}
Series = Iterable[tuple[float, float]]
_FAR = 2.0
"""How many times the hypervolume's reach is drawn: a policy that diverged would shrink the other frontiers to a dot."""


@final
@dataclass(frozen=True)
class Point:
    """A point of a line: a row's figure at x, and the estimate of x where x was measured as well."""

    row: str
    setting: Setting
    x: float
    y: Estimate
    x_estimate: Estimate | None = None


@final
@dataclass(frozen=True)
class Panel:
    """One chart: lines by objective, of one figure.

    figure   its name in the files
    title    what it is, in words
    setting  what its lines have in common
    reach    values that the y axis takes in; panels that are compared share them
    """

    figure: str
    title: str
    setting: Setting
    lines: Mapping[str, Sequence[Point]]
    reach: tuple[float, ...] = ()

    @property
    def points(self) -> Iterator[Point]:
        for line in self.lines.values():
            yield from line


@final
@dataclass(frozen=True)
class Plot:
    """Charts that share an x axis.

    name    of its files
    x       the name of the x axis
    marks   whether the points are drawn, with their intervals, or lines with bands
    ticks   where x is one of some values: its coordinate -> the value
    far     nothing further right is drawn; the files have it
    """

    name: str
    x: str
    panels: Sequence[Panel]
    marks: bool
    ticks: Mapping[float, str] = field(default_factory=dict)
    far: float = math.inf

    @property
    def beyond(self) -> int:
        """How many rows are too far right to be drawn."""
        return len(
            {(point.row, point.setting) for panel in self.panels for point in panel.points if point.x > self.far}
        )

    def table(self, sweeps: Sequence[str]) -> pd.DataFrame:
        """The CSV: a line for each figure and point. A point that lines share, such as the reference, comes once."""
        lines = {}
        for panel in self.panels:
            for point in panel.points:
                x, y = point.x_estimate, point.y
                settings = dict.fromkeys(sweeps, "") | dict(panel.setting) | dict(point.setting)
                lines[panel.figure, panel.setting, point.row, point.setting, point.x] = (
                    {"figure": panel.figure, "objective": point.row, **settings}
                    | ({} if self.ticks else {self.x: point.x})
                    | ({} if x is None else {f"{self.x}_low": x.low, f"{self.x}_high": x.high})
                    | {"mean": y.mean, "low": y.low, "high": y.high, "seeds": y.count}
                )
        return pd.DataFrame(list(lines.values()))


def plots(results: Results) -> dict[str, Plot]:
    """The plots that have something to show, by name."""
    curves = _seed_means(results, "curves", "step", _CURVES, lambda record, figure: record["curves"].get(figure, []))
    every = (_frontier(results), _sparsity(results), _divergence(results), curves)
    return {plot.name: plot for plot in every if plot.panels}


def _frontier(results: Results) -> Plot:
    plane = results.suite.plane
    panels = []
    for frontiers in results.planes:
        (reference,) = frontiers.rows[REFERENCE]
        lines = {}
        for name, rows in frontiers.rows.items():
            if name != REFERENCE:
                measured = [row for row in (reference, *rows) if {plane.distance, plane.reward} <= row.metrics.keys()]
                figures = [(row, row.metrics[plane.distance], row.metrics[plane.reward]) for row in measured]
                points = [Point(row.name, row.setting, x.mean, y, x) for row, x, y in figures]
                lines[name] = sorted(points, key=lambda point: point.x)
        panels.append(Panel(plane.reward, spaced(plane.reward), frontiers.setting, lines))
    far = math.inf if plane.within is None else _FAR * plane.within
    return Plot("frontier", plane.distance, panels, marks=True, far=far)


def _sparsity(results: Results) -> Plot:
    """The weights, against the sweep that frontiers run along, or the first; without sweeps, by objective.

    Of objectives that weigh some token otherwise than by 1.
    """
    suite, values = results.suite, results.values
    weighed = values[values["metric"].isin(["mean_w", "mean_v"]) & (values["value"] != 1)]
    masked = [name for name in suite.objectives if name in set(weighed["objective"])]
    swept = suite.plane.over if suite.plane.over in suite.sweeps else next(iter(suite.sweeps), None)
    ticks = [dict(row.setting)[swept] for row in results.rows if row.name in masked] if swept else masked
    position = {label: index + 0.5 for index, label in enumerate(_ordered(ticks))}
    panels = []
    for rest, side_by_side in grouped(suite, results.rows, along=swept).items():
        rows = [row for row in side_by_side if row.name in masked and row.metrics]
        for weights, figures in _WEIGHTS.items():
            names = [n for n in masked if weights == "w" or any(_has_other_v(row) for row in rows if row.name == n)]
            for figure, title in figures.items():
                lines = {
                    name: [
                        Point(
                            name,
                            row.setting,
                            position[dict(row.setting)[swept] if swept else name],
                            row.metrics[figure],
                        )
                        for row in rows
                        if row.name == name and figure in row.metrics
                    ]
                    for name in names
                }
                if any(lines.values()):
                    reach = (0.0, 1.0) if figure.startswith("sparsity") else (0.0,)
                    panels.append(Panel(figure, title, rest, lines, reach))
    ends = {coordinate: label for label, coordinate in position.items()}
    return Plot("sparsity", swept or "objective", panels, marks=True, ticks=ends)


def _has_other_v(row: Row) -> bool:
    """Whether the divergence's weights are others than those of the log-ratios."""

    def values(figure: str) -> list[dict[str, float]]:
        return [record["values"][figure] for record in row.finished.values() if record["values"].get(figure)]

    return any(values(v) not in ([], values(w)) for w, v in zip(*_WEIGHTS.values(), strict=True))


def _ordered(labels: Sequence[str]) -> list[str]:
    """The distinct labels; numbers by size, others as they come."""
    distinct = list(dict.fromkeys(labels))
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct


def _profile(record: Record, side: str) -> Series:
    return enumerate(record.get("profiles", {}).get(side, []), 1)  # old records have none


def _divergence(results: Results) -> Plot:
    plot = _seed_means(results, "divergence", "token", _PROFILES, _profile)
    panels = []
    for panel in plot.panels:  # the sides of a setting have one scale
        side_by_side = [other for other in plot.panels if other.setting == panel.setting]
        panels.append(
            replace(panel, reach=(0.0, max(point.y.mean for other in side_by_side for point in other.points)))
        )
    return replace(plot, panels=panels)


def _seed_means(
    results: Results, name: str, x: str, titles: Mapping[str, str], series: Callable[[Record, str], Series]
) -> Plot:
    """Means over seeds of series, which a record has by figure."""
    panels = []
    for setting, rows in grouped(results.suite, results.rows).items():
        for figure, title in titles.items():
            lines = {row.name: _line(row, [series(r, figure) for r in row.finished.values()]) for row in rows}
            if any(lines.values()):
                panels.append(Panel(figure, title, setting, lines, (0.0,)))
    return Plot(name, x, panels, marks=False)


def _line(row: Row, by_seed: Sequence[Series]) -> list[Point]:
    """The means over seeds at the x that all seeds have."""
    series = [dict(points) for points in by_seed]
    shared = sorted(set.intersection(*map(set, series))) if series else []
    if not shared:
        return []
    if len(series) == 1:
        return [Point(row.name, row.setting, x, Estimate(series[0][x], None, None, "seeds", 1)) for x in shared]
    values = [[line[x] for line in series] for x in shared]
    ends = zip(*t_intervals(np.array(values)), strict=True)
    return [
        Point(row.name, row.setting, x, Estimate(fmean(means), float(low), float(high), "seeds", len(series)))
        for x, means, (low, high) in zip(shared, values, ends, strict=True)
    ]
