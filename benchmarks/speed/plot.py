"""The results as a picture: time above, memory below; by shape, by length, by vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.speed.ratios import highest, middle

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["draw"]

_FIGURES = ((middle, "seconds", "wall s a step"), (highest, "added_mib", "added MiB"))


def draw(facts: dict[str, Any], path: Path) -> None:
    growth = {axis: results for axis, results in facts["growth"].items() if results}
    figure, axes = plt.subplots(
        2, 1 + len(growth), figsize=(8 + 4.5 * len(growth), 7.5), layout="constrained", squeeze=False
    )
    colours = {name: plt.get_cmap("tab10")(index) for index, name in enumerate(facts["contenders"])}
    for row, (summary, field, label) in zip(axes, _FIGURES, strict=True):
        _bars(row[0], facts, summary, field, colours)
        row[0].set(title=label)
        for axis, (name, results) in zip(row[1:], growth.items(), strict=True):
            for contender, colour in colours.items():
                points = [
                    (result["at"], summary(result["runs"][contender], field))
                    for result in results
                    if contender in result["runs"]
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), marker="o", color=colour, label=contender)
            axis.set(xscale="log", yscale="log", xlabel=name, title=f"{label}, one pair")
            ticks = [result["at"] for result in results]
            axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9)
    figure.suptitle(f"A step of {len(facts['shapes'])} shapes (prompt+response), {facts['date']}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axis: Axes, facts: dict[str, Any], summary: Any, field: str, colours: dict[str, Any]) -> None:
    names = [name for name in colours if any(name in result["runs"] for result in facts["shapes"].values())]
    width = 0.85 / max(1, len(names))
    for index, name in enumerate(names):
        bars = [
            (shape + (index - len(names) / 2 + 0.5) * width, summary(result["runs"][name], field))
            for shape, result in enumerate(facts["shapes"].values())
            if name in result["runs"]
        ]
        axis.bar(*zip(*bars, strict=True), width=width, color=colours[name], label=name)
    axis.set_xticks(range(len(facts["shapes"])), list(facts["shapes"]))
    axis.grid(alpha=0.3, axis="y")
