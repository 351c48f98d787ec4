"""Plots as the page draws them: charts, and what is said of each of their marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from prefopt.comparison.run import control_name
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Setting
from prefopt.pages.charts import Chart, Segment, line_chart
from prefopt.report.format import at, number, shown, spaced
from prefopt.report.plots import Panel, Place, Plot

__all__ = ["Drawn", "Group", "drawn", "looks"]

_LARGE, _SMALL = (480, 300), (360, 210)
_MANY = 6
"""Labels along x that a small chart has room for."""


@final
@dataclass(frozen=True)
class Drawn:
    """A chart; `places` are those of the marks of each line, none where the plot has no marks."""

    panel: Panel
    chart: Chart
    places: list[list[Place]]

    def said(self, place: Place, x: str) -> str:
        """What is said of a mark."""
        words = f"{place.row}{at(place.setting)}: {spaced(self.panel.figure)} {shown(place.y)}"
        return words if place.x_estimate is None else f"{words} at {spaced(x)} {shown(place.x_estimate)}"

    @property
    def summary(self) -> str:
        """For those who do not see it."""
        ends = [f"{name} {number(line[-1].y.mean)}" for name, line in self.panel.lines.items() if line]
        return f"{self.panel.title}{at(self.panel.setting)}; where each line ends: {', '.join(ends)}"


@final
@dataclass(frozen=True)
class Group:
    """The charts of one setting, and whom they have lines of: name -> what the key calls it."""

    setting: Setting
    names: Mapping[str, str]
    charts: list[Drawn]

    @property
    def words(self) -> str:
        return at(self.setting).removeprefix(", ") or "all runs"


def drawn(plot: Plot, *, large: bool = False) -> list[Group]:
    """The charts of a plot, by setting."""
    groups: dict[Setting, list[Drawn]] = {}
    for panel in plot.panels:
        groups.setdefault(panel.setting, []).append(
            _drawn(plot, panel, _LARGE if large or len(plot.ticks) > _MANY else _SMALL)
        )
    return [
        Group(setting, {name: label for each in of for name, label in _labels(each.panel)}, of)
        for setting, of in groups.items()
    ]


def _labels(panel: Panel) -> Iterator[tuple[str, str]]:
    """An objective's name, with the values that it does not share with the others."""
    for name, line in panel.lines.items():
        if line:
            shared = dict(panel.setting)
            yield name, name + at(tuple(each for each in line[-1].setting if shared.get(each[0], each[1]) != each[1]))


def looks(suite: Suite) -> Mapping[str, str]:
    """The style of each objective's line: colours and, when these run out, dashes; a control has its objective's."""
    found = {name: f"c{place % 8} d{place // 8 % 3}" for place, name in enumerate(suite.objectives)}
    return found | {control_name(name): f"c{place % 8} control" for place, name in enumerate(suite.objectives)}


def _drawn(plot: Plot, panel: Panel, size: tuple[int, int]) -> Drawn:
    near = {name: [place for place in line if place.x <= plot.far] for name, line in panel.lines.items()}
    near = {name: line for name, line in near.items() if line}
    chart = line_chart(
        panel.title,
        {name: [(place.x, place.y.mean) for place in line] for name, line in near.items()},
        takes_in=panel.reach,
        segments={name: list(_bars(line, plot.far)) for name, line in near.items()} if plot.marks else None,
        size=size,
        ticks=plot.ticks,
    )
    return Drawn(panel, chart, list(near.values()) if plot.marks else [])


def _bars(line: Sequence[Place], far: float) -> Iterator[Segment]:
    """The intervals of the points, which lie along the axes."""
    for place in line:
        x, y = place.x_estimate, place.y
        if x is not None and x.low is not None and x.high is not None:
            yield max(0.0, x.low), y.mean, min(far, x.high), y.mean
        if y.low is not None and y.high is not None:
            yield place.x, y.low, place.x, y.high
