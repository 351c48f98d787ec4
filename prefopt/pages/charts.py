"""Line charts as geometry: where lines, ticks and labels go. A page's template draws them, or a plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 28

_CLOSE = 0.25
"""How far below a tick, in ticks, the y axis may begin without the tick below."""

Point = tuple[float, float]
Segment = tuple[float, float, float, float]
"""x and y of its two ends."""
Band = tuple[float, float, float]
"""x, and the low and high y of an interval there."""


@dataclass(frozen=True)
class Tick:
    """A tick at a coordinate of its axis, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A series: its name, its points, its last value, its segments, and the outline of its band."""

    name: str
    marks: list[Point]
    last: str
    segments: list[Segment]
    band: list[Point]

    @property
    def points(self) -> str:
        """The points as an SVG polyline has them."""
        return " ".join(f"{x},{y}" for x, y in self.marks)

    @property
    def outline(self) -> str:
        """The band as an SVG polygon has it."""
        return " ".join(f"{x},{y}" for x, y in self.band)


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
    bands: Mapping[str, Sequence[Band]] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    ticks: Mapping[float, str] | None = None,
) -> Chart:
    """Lay out series of (x, y), x >= 0, with their segments (intervals of points) and bands (intervals of lines).

    A point that is not finite is left out. The y axis takes in `takes_in`, the x axis 0. Segments reach at most as far
    beyond the points as these span, and bands not beyond the axes; both are cut off there. `ticks` are labels along x,
    for an x that is no number; the axis then ends half a unit behind the last.
    """
    width, height = size
    finite = {name: [point for point in points if math.isfinite(sum(point))] for name, points in series.items()}
    bars = {name: [bar for bar in (segments or {}).get(name, ()) if math.isfinite(sum(bar))] for name in series}
    points = [point for line in finite.values() for point in line]
    ends = [end for line in bars.values() for x0, y0, x1, y1 in line for end in ((x0, y0), (x1, y1))]
    values = _reach([*takes_in, *(y for _, y in points)], (y for _, y in ends))
    y_ticks = _ticks(*values)
    x_high = max(ticks) + 0.5 if ticks else _reach([0.0, *(x for x, _ in points)], (x for x, _ in ends))[1] or 1.0
    labels = ticks or {x: f"{x:g}" for x in _ticks(0, x_high) if x <= x_high}
    if len(y_ticks) > 2 and y_ticks[1] - values[0] < _CLOSE * (y_ticks[1] - y_ticks[0]):
        y_ticks = y_ticks[1:]
    y_low = min(*values, y_ticks[0])
    y_high = max(y_ticks[-1], *values, y_low + 1e-9)

    def across(x: float) -> float:
        return round(_LEFT + (width - _LEFT - _RIGHT) * min(x, x_high) / x_high, 1)

    def down(y: float) -> float:
        y = min(max(y, y_low), y_high)
        return round(height - _BOTTOM - (height - _TOP - _BOTTOM) * (y - y_low) / (y_high - y_low), 1)

    def outline(band: Sequence[Band]) -> list[Point]:
        band = [(x, low, high) for x, low, high in band if math.isfinite(x + low + high)]
        return [(across(x), down(low)) for x, low, _ in band] + [(across(x), down(high)) for x, _, high in band[::-1]]

    return Chart(
        title=title,
        lines=[
            Line(
                name,
                [(across(x), down(y)) for x, y in line],
                f"{line[-1][1]:.3g}" if line else "none",
                [(across(x0), down(y0), across(x1), down(y1)) for x0, y0, x1, y1 in bars[name]],
                outline((bands or {}).get(name, ())),
            )
            for name, line in finite.items()
        ],
        x_ticks=[Tick(across(x), label) for x, label in labels.items()],
        y_ticks=[Tick(down(y), f"{y:g}") for y in y_ticks],
        width=width,
        height=height,
    )


def _reach(values: Sequence[float], ends: Iterable[float]) -> tuple[float, float]:
    """The least and greatest of the values and the ends, which count up to the values' span away from these."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    span = high - low
    reach = [min(max(end, low - span), high + span) for end in ends]
    return min([low, *reach]), max([high, *reach])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from the last at or below `low` to the last at or below `high`, four to six of them."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
