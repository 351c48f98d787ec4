"""The page's charts as PNG, with matplotlib, which `pip install prefopt[plots]` brings."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.pages.charts import Chart
from prefopt.report.charts import COLOURS, chart_groups
from prefopt.report.format import short, spaced
from prefopt.report.plots import Plot
from prefopt.whole_files import publish_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACROSS = 4
_DASHES = {"d0": "-", "d1": "--", "d2": ":", "control": "-."}


def draw(plot: Plot, looks: Mapping[str, str], path: Path) -> None:
    """Write the charts of a plot, with one key. Raises ModuleNotFoundError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = chart_groups(plot)
    across = min(_ACROSS, len(plot.panels))
    down = math.ceil(len(plot.panels) / across)
    figure = Figure(figsize=(2.5 + 4.2 * across, 0.5 + 3.5 * down), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes in grid[len(plot.panels) :]:
        axes.set_axis_off()
    styles = {name: _style(classes) for name, classes in looks.items()}
    charts = [(group, panel) for group in groups for panel in group.charts]
    for axes, (group, panel) in zip(grid, charts, strict=False):
        _draw(axes, panel.chart, styles, marker="o" if plot.marks else "")
        axes.set(xlabel=spaced(short(plot.x)), ylabel=panel.panel.title)
        axes.set_title(group.words if group.setting else "", fontsize=10)
    names = dict.fromkeys(name for group in groups for name in group.labels)
    handles = [axes.plot([], [], **styles[name])[0] for name in names]
    figure.legend(handles, list(names), loc="outside right upper", fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130)
    publish_bytes(picture.getvalue(), path)


def _style(classes: str) -> dict[str, Any]:
    colour, dashes = classes.split()
    return {"color": COLOURS[int(colour.removeprefix("c"))], "linestyle": _DASHES[dashes], "linewidth": 1.5}


def _draw(axes: Axes, chart: Chart, styles: Mapping[str, Mapping[str, Any]], *, marker: str) -> None:
    """In the chart's coordinates, y downwards."""
    for line in chart.lines:
        style = styles[line.name]
        axes.plot(*zip(*line.marks, strict=True), **style, marker=marker, markersize=4, clip_on=False)
        for x0, y0, x1, y1 in line.segments:
            axes.plot((x0, x1), (y0, y1), color=style["color"], linewidth=0.8)
        if line.band:
            axes.fill(*zip(*line.band, strict=True), color=style["color"], alpha=0.12, linewidth=0)
    axes.set_xticks([tick.at for tick in chart.x_ticks], [tick.label for tick in chart.x_ticks])
    axes.set_yticks([tick.at for tick in chart.y_ticks], [tick.label for tick in chart.y_ticks])
    axes.set(xlim=(chart.left, chart.right), ylim=(chart.bottom, chart.top))
    axes.grid(alpha=0.3)
