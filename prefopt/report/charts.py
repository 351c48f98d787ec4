"""The plots laid out as charts, which the page draws as SVG and `pictures` as PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from prefopt.comparison.results import Results
from prefopt.comparison.run import control_name
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Setting
from prefopt.comparison.verdict import verdict
from prefopt.pages.charts import Chart, Segment, line_chart
from prefopt.report.format import at, number, shown, spaced
from prefopt.report.plots import Panel, Plot, Point

COLOURS = ("#1663b3", "#b4530a", "#1a7f4b", "#8a3ab9", "#b3261e", "#0b7285", "#7a6200", "#5c636e")
"""Of the lines, on light paper."""

_LARGE, _SMALL = (480, 300), (360, 210)
_MANY = 6
"""Labels along x that a small chart has room for."""


@final
@dataclass(frozen=True)
class PanelChart:
    """The chart of a panel; `points` are those of the marks of each line, empty where the plot has no marks."""

    panel: Panel
    chart: Chart
    points: list[list[Point]]

    def tooltip(self, point: Point, x: str) -> str:
        text = f"{point.row}{at(point.setting)}: {spaced(self.panel.figure)} {shown(point.y)}"
        return text if point.x_estimate is None else f"{text} at {spaced(x)} {shown(point.x_estimate)}"

    @property
    def summary(self) -> str:
        """For those who do not see it."""
        ends = [f"{name} {number(line[-1].y.mean)}" for name, line in self.panel.lines.items() if line]
        return f"{self.panel.title}{at(self.panel.setting)}; where each line ends: {', '.join(ends)}"


@final
@dataclass(frozen=True)
class ChartGroup:
    """The charts of one setting, and the key of their lines: name -> label."""

    setting: Setting
    labels: Mapping[str, str]
    charts: list[PanelChart]

    @property
    def words(self) -> str:
        return at(self.setting).removeprefix(", ") or "all runs"


def chart_groups(plot: Plot) -> list[ChartGroup]:
    """The charts of a plot, by setting."""
    size = _LARGE if plot.name == "frontier" or len(plot.ticks) > _MANY else _SMALL
    groups: dict[Setting, list[PanelChart]] = {}
    for panel in plot.panels:
        groups.setdefault(panel.setting, []).append(_chart(plot, panel, size))
    return [
        ChartGroup(setting, {name: label for chart in charts for name, label in _labels(chart.panel)}, charts)
        for setting, charts in groups.items()
    ]


def _labels(panel: Panel) -> Iterator[tuple[str, str]]:
    """An objective's name, with the values that it does not share with the others."""
    shared = dict(panel.setting)
    for name, line in panel.lines.items():
        if line:
            yield name, name + at(tuple((f, value) for f, value in line[-1].setting if shared.get(f, value) != value))


def standings(results: Results) -> Plot | None:
    """What the verdict compares, side by side; None where nothing is compared."""
    judged = verdict(results)
    if judged is None:
        return None
    ticks = {index + 0.5: standing.name for index, standing in enumerate(judged.standings)}
    lines = {
        standing.name: [Point(standing.name, standing.setting, x, standing.estimate)]
        for x, standing in zip(ticks, judged.standings, strict=True)
    }
    panel = Panel(judged.metric.name, spaced(judged.metric.name), (), lines)
    return Plot("standings", "objective", [panel], marks=True, ticks=ticks)


def looks(suite: Suite) -> dict[str, str]:
    """The style of each objective's line: colours c0..c7, then dashes d0..d2; a control has its objective's colour."""
    names = list(enumerate(suite.objectives))
    controls = {control_name(name): f"c{index % 8} control" for index, name in names}
    return {name: f"c{index % 8} d{index // 8 % 3}" for index, name in names} | controls


def _chart(plot: Plot, panel: Panel, size: tuple[int, int]) -> PanelChart:
    near = {name: [point for point in line if point.x <= plot.far] for name, line in panel.lines.items()}
    near = {name: line for name, line in near.items() if line}
    chart = line_chart(
        panel.title,
        {name: [(point.x, point.y.mean) for point in line] for name, line in near.items()},
        takes_in=panel.reach,
        segments={name: list(_bars(line, plot.far)) for name, line in near.items()} if plot.marks else None,
        bands=None if plot.marks else {name: list(_band(line)) for name, line in near.items()},
        size=size,
        ticks=plot.ticks,
    )
    return PanelChart(panel, chart, list(near.values()) if plot.marks else [])


def _bars(line: Sequence[Point], far: float) -> Iterator[Segment]:
    """The intervals of the points, along the axes."""
    for point in line:
        x, y = point.x_estimate, point.y
        if x is not None and x.low is not None and x.high is not None:
            yield max(0.0, x.low), y.mean, min(far, x.high), y.mean
        if y.low is not None and y.high is not None:
            yield point.x, y.low, point.x, y.high


def _band(line: Sequence[Point]) -> Iterator[tuple[float, float, float]]:
    for point in line:
        if point.y.low is not None and point.y.high is not None:
            yield point.x, point.y.low, point.y.high
