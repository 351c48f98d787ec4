"""Line charts as SVG geometry: where the lines, ticks and labels go. The page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Chart", "Line", "Tick", "line_chart"]

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 28

_CLOSE = 0.25
"""How far below a tick, in ticks, the y axis may begin without the tick below."""

Point = tuple[float, float]
Segment = tuple[float, float, float, float]
"""x and y of its two ends."""


@dataclass(frozen=True)
class Tick:
    """A tick at a place along its axis, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A series: its name, its points, also as an SVG polyline wants them, its last value, and segments of its own."""

    name: str
    marks: list[Point]
    last: str
    segments: list[Segment]

    @property
    def points(self) -> str:
        return " ".join(f"{x},{y}" for x, y in self.marks)


@dataclass(frozen=True)
class Chart:
    """A chart of width x height units; x ticks at the bottom, y ticks at the left of the plot."""

    title: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int
    height: int

    @property
    def left(self) -> int:
        return _LEFT

    @property
    def right(self) -> int:
        return self.width - _RIGHT

    @property
    def top(self) -> int:
        return _TOP

    @property
    def bottom(self) -> int:
        return self.height - _BOTTOM


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    takes_in: Sequence[float] = (0.0,),
    segments: Mapping[str, Sequence[Segment]] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    ticks: Mapping[float, str] | None = None,
) -> Chart:
    """Lay out series of (x, y), x >= 0, and segments that belong to them, such as intervals.

    What is not finite leaves no point. The y axis takes in those values, the x axis 0. `ticks` are labels of places
    along x, for an x that is no number; the axis then ends half a unit behind the last.
    """
    width, height = size
    kept = {name: [point for point in points if math.isfinite(sum(point))] for name, points in series.items()}
    drawn = {name: [each for each in (segments or {}).get(name, ()) if math.isfinite(sum(each))] for name in series}
    ends = [end for each in drawn.values() for x0, y0, x1, y1 in each for end in ((x0, y0), (x1, y1))]
    places = [point for points in kept.values() for point in points] + ends
    values = [*takes_in, *(y for _, y in places)] or [0.0]
    y_ticks = _ticks(min(values), max(values))
    x_high = max(ticks) + 0.5 if ticks else max((x for x, _ in places), default=0.0) or 1.0
    labels = ticks or {x: f"{x:g}" for x in _ticks(0, x_high) if x <= x_high}
    if len(y_ticks) > 2 and y_ticks[1] - min(values) < _CLOSE * (y_ticks[1] - y_ticks[0]):
        y_ticks = y_ticks[1:]
    y_low = min(*values, y_ticks[0])
    y_high = max(y_ticks[-1], *values, y_low + 1e-9)

    def across(x: float) -> float:
        return round(_LEFT + (width - _LEFT - _RIGHT) * x / x_high, 1)

    def down(y: float) -> float:
        return round(height - _BOTTOM - (height - _TOP - _BOTTOM) * (y - y_low) / (y_high - y_low), 1)

    return Chart(
        title=title,
        lines=[
            Line(
                name,
                [(across(x), down(y)) for x, y in points],
                f"{points[-1][1]:.3g}" if points else "none",
                [(across(x0), down(y0), across(x1), down(y1)) for x0, y0, x1, y1 in drawn[name]],
            )
            for name, points in kept.items()
        ],
        x_ticks=[Tick(across(x), label) for x, label in labels.items()],
        y_ticks=[Tick(down(y), f"{y:g}") for y in y_ticks],
        width=width,
        height=height,
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from one at or below `low` to the last at or below `high`, four to six of them."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
