"""Plots as pictures, with matplotlib, which `pip install prefopt[plots]` brings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.comparison.run import control_name
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Estimate
from prefopt.report.format import short, spaced
from prefopt.report.plots import Panel, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_ACROSS = 4


def draw(suite: Suite, plot: Plot, path: Path) -> None:
    """A panel for each figure and setting. Raises ModuleNotFoundError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(plot.panels))
    down = math.ceil(len(plot.panels) / across)
    figure = Figure(figsize=(2.5 + 4.2 * across, 0.5 + 3.5 * down), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    styles = _styles(suite)
    for axes, panel in zip(grid, plot.panels, strict=False):
        _panel(axes, plot, panel, styles)
    for axes in grid[len(plot.panels) :]:
        axes.set_axis_off()
    known: dict[str, Any] = {}
    for axes in grid:
        known |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(known.values()), list(known), loc="outside right upper", fontsize=9)
    figure.savefig(path, dpi=130)


def _styles(suite: Suite) -> dict[str, dict[str, Any]]:
    """As on the page: colours, then dashes, and the objective's colour for its control."""
    found: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(suite.objectives):
        found[name] = {"color": f"C{place % 10}", "linestyle": ("-", "--", ":")[place // 10 % 3]}
        found[control_name(name)] = {"color": f"C{place % 10}", "linestyle": "-."}
    return found


def _panel(axes: Axes, plot: Plot, panel: Panel, styles: Mapping[str, Mapping[str, Any]]) -> None:
    for name, line in panel.lines.items():
        if not line:
            continue
        x, y = [place.x for place in line], [place.y for place in line]
        means = [each.mean for each in y]
        if plot.marks:
            of_x = [place.x_estimate for place in line if place.x_estimate is not None]
            errors: dict[str, Any] = {"yerr": _errors(y), "xerr": _errors(of_x) if of_x else None}
            axes.errorbar(x, means, **errors, **styles[name], marker="o", markersize=4, elinewidth=0.8, label=name)
        else:
            below, above = _errors(y)
            axes.plot(x, means, **styles[name], linewidth=1.4, label=name)
            low, high = (
                [m + sign * e for m, e in zip(means, of, strict=True)] for sign, of in ((-1, below), (1, above))
            )
            axes.fill_between(x, low, high, color=styles[name]["color"], alpha=0.12, linewidth=0)
    axes.set(xlabel=spaced(short(plot.x)), ylabel=panel.title)
    axes.set_title(", ".join(f"{short(field)} {value}" for field, value in panel.setting), fontsize=10)
    axes.grid(alpha=0.3)
    if plot.ticks:
        axes.set_xticks(list(plot.ticks), list(plot.ticks.values()))
        axes.set_xlim(0, max(plot.ticks) + 0.5)
    elif math.isfinite(plot.far):
        axes.set_xlim(right=plot.far)


def _errors(of: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """What the interval has below and above the mean, which it may leave out by the last digit."""
    below = [0.0 if each.low is None else max(0.0, each.mean - each.low) for each in of]
    above = [0.0 if each.high is None else max(0.0, each.high - each.mean) for each in of]
    return below, above
