"""Line charts as SVG geometry: where the lines, ticks and labels go. The page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Chart", "Line", "Tick", "line_chart"]

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 28


@dataclass(frozen=True)
class Tick:
    """A tick at a place along its axis, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A series: its name, its points as an SVG polyline wants them, and its last value."""

    name: str
    points: str
    last: str


@dataclass(frozen=True)
class Chart:
    """A chart of WIDTH x HEIGHT units; x ticks at the bottom, y ticks at the left of the plot."""

    title: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def line_chart(title: str, series: Mapping[str, Sequence[tuple[int, float]]], *, top: float = 0.0) -> Chart:
    """Lay out series of (step, value). Values that are not finite leave no point. The y axis takes in 0 and `top`."""
    kept = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    values = [y for points in kept.values() for _, y in points]
    steps = [x for points in kept.values() for x, _ in points]
    y_ticks = _ticks(min([0.0, *values]), max([top, *values]))
    x_ticks = _ticks(0, max([1, *steps]))
    y_low, y_high = y_ticks[0], max(y_ticks[-1], *values, y_ticks[0] + 1e-9)
    x_high = max([1, *steps])

    def across(x: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * x / x_high, 1)

    def down(y: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (y - y_low) / (y_high - y_low), 1)

    return Chart(
        title=title,
        lines=[
            Line(
                name,
                " ".join(f"{across(x)},{down(y)}" for x, y in points),
                f"{points[-1][1]:.3g}" if points else "none",
            )
            for name, points in kept.items()
        ],
        x_ticks=[Tick(across(x), f"{x:g}") for x in x_ticks if x <= x_high],
        y_ticks=[Tick(down(y), f"{y:g}") for y in y_ticks],
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from one at or below `low` to the last at or below `high`, four to six of them."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
