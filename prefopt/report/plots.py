"""What a plot shows: the same for the page, its PNG and its CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from prefopt.comparison.summary import Estimate, Setting

__all__ = ["Panel", "Place", "Plot"]


@final
@dataclass(frozen=True)
class Place:
    """A point of a line: what a row has for a figure, at x, and the estimate of x where x was measured as well."""

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
    lines: Mapping[str, Sequence[Place]]
    reach: tuple[float, ...] = ()


@final
@dataclass(frozen=True)
class Plot:
    """Charts that share an x axis.

    name    of its files
    x       the name of the x axis
    marks   whether the points are drawn, with their intervals, or the line alone
    ticks   where x is one of some values: its place -> the value
    far     nothing further right is drawn; the files have it
    """

    name: str
    x: str
    panels: Sequence[Panel]
    marks: bool
    ticks: Mapping[float, str] = field(default_factory=dict)
    far: float = float("inf")

    @property
    def beyond(self) -> int:
        """How many rows are too far right to be drawn."""
        far = {(place.row, place.setting) for panel in self.panels for place in _places(panel) if place.x > self.far}
        return len(far)

    def table(self, sweeps: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A line for each point and figure, as the CSV has it; a point that lines share comes once."""
        seen, measured = set(), self._measured
        for panel in self.panels:
            for place in _places(panel):
                key = (panel.figure, panel.setting, place.row, place.setting, place.x)
                if key not in seen:
                    seen.add(key)
                    yield self._line(panel, place, sweeps, measured)

    def columns(self, sweeps: Sequence[str]) -> list[str]:
        own = [] if self.x in sweeps or self.x == "objective" else [self.x]
        ends = [f"{self.x}_low", f"{self.x}_high"] if self._measured else []
        return ["figure", "objective", *sweeps, *own, *ends, "mean", "low", "high", "seeds"]

    @property
    def _measured(self) -> bool:
        return any(place.x_estimate for panel in self.panels for place in _places(panel))

    def _line(self, panel: Panel, place: Place, sweeps: Sequence[str], measured: bool) -> dict[str, Any]:
        line: dict[str, Any] = {"figure": panel.figure, "objective": place.row}
        line |= dict.fromkeys(sweeps, "") | dict(panel.setting) | dict(place.setting)
        if not self.ticks:
            line[self.x] = place.x
        if measured:
            known = place.x_estimate
            line |= {f"{self.x}_low": known and known.low, f"{self.x}_high": known and known.high}
        return line | {"mean": place.y.mean, "low": place.y.low, "high": place.y.high, "seeds": place.y.count}


def _places(panel: Panel) -> Iterator[Place]:
    for line in panel.lines.values():
        yield from line
