"""The frontiers as a picture, with matplotlib, which `pip install prefopt[plots]` brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.comparison.frontier import Frontiers
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]


def draw(suite: Suite, planes: Sequence[Frontiers], path: Path) -> None:
    """A panel for each setting of the sweeps that no frontier runs along. Raises ModuleNotFoundError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 5 * len(planes), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, plane in zip(panels, planes, strict=True):
        _panel(axes, suite, plane)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9)
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, suite: Suite, plane: Frontiers) -> None:
    for place, name in enumerate(suite.objectives):
        found = [row.metrics for row in (*plane.rows[REFERENCE], *plane.rows[name])]
        known = [(of[suite.plane.distance], of[suite.plane.reward]) for of in found if suite.plane.distance in of]
        known.sort(key=lambda each: each[0].mean)
        x, y = ([each[axis] for each in known] for axis in (0, 1))
        axes.errorbar(
            [each.mean for each in x],
            [each.mean for each in y],
            xerr=_errors(x),
            yerr=_errors(y),
            color=f"C{place}",
            marker="o",
            markersize=4,
            elinewidth=0.8,
            label=name,
        )
    axes.set(xlabel=suite.plane.distance.replace("_", " "), ylabel=suite.plane.reward)
    axes.set_title(", ".join(f"{field} {value}" for field, value in plane.setting), fontsize=10)
    axes.grid(alpha=0.3)
    if suite.plane.within is not None:
        axes.set_xlim(right=2 * suite.plane.within)


def _errors(of: Sequence[Estimate]) -> Any:
    """What the interval has below and above the mean, which it may leave out by the last digit."""
    below = [0.0 if each.low is None else max(0.0, each.mean - each.low) for each in of]
    above = [0.0 if each.high is None else max(0.0, each.high - each.mean) for each in of]
    return below, above
