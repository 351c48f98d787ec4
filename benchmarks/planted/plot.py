"""The results as a picture: for each setting the frontiers above, what the masks found below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["draw"]


def draw(facts: dict[str, Any], path: Path) -> None:
    settings = facts["settings"]
    figure, axes = plt.subplots(
        2, len(settings), figsize=(1.5 + 4.2 * len(settings), 8), layout="constrained", squeeze=False
    )
    colours = {name: plt.get_cmap("tab10")(index) for index, name in enumerate(facts["objectives"])}
    for (top, bottom), (setting, result) in zip(axes.T, settings.items(), strict=True):
        reference = [run for run in result["runs"] if run["beta"] is None]
        for name, colour in colours.items():
            runs = [run for run in result["runs"] if run["objective"] == name]
            if not runs:
                continue
            kl, reward, auroc = (
                _errors([run["metrics"][metric] for run in part])
                for part, metric in (
                    (reference + runs, "sequence_kl"),
                    (reference + runs, "reward"),
                    (runs, "auroc_w"),
                )
            )
            order = sorted(range(len(kl[0])), key=lambda index: kl[0][index])
            top.errorbar(*(_ordered(of[0], order) for of in (kl, reward)), color=colour, label=name, marker="o", ms=4)
            top.errorbar(kl[0], reward[0], xerr=kl[1], yerr=reward[1], fmt="none", color=colour, alpha=0.4)
            bottom.errorbar([run["beta"] for run in runs], auroc[0], yerr=auroc[1], color=colour, marker="o", ms=4)
        top.set(title=setting, xlabel="sequence KL(policy || reference), nats", ylabel="true reward")
        _look_at(top, [run["metrics"] for run in result["runs"]], 2 * facts["within"])
        betas = sorted({beta for own in facts["betas"][setting].values() for beta in own})
        bottom.set(xlabel="beta", ylabel="AUROC of w", xscale="log", ylim=(0, 1.02))
        bottom.set_xticks(betas, [f"{beta:g}" for beta in betas])
        bottom.minorticks_off()
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(3 * len(settings), len(colours)), fontsize=9)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _look_at(axis: Axes, runs: list[dict[str, dict[str, float]]], distance: float) -> None:
    """Show no more than that distance: some policies go so far that the others would be a dot."""
    near = [run["reward"]["high"] for run in runs if run["sequence_kl"]["mean"] <= distance]
    low = min(run["reward"]["low"] for run in runs)
    axis.set(xlim=(-0.02 * distance, distance), ylim=(low - 0.2, 1.1 * max(near) + 0.2))


def _errors(estimates: list[dict[str, float]]) -> tuple[list[float], list[list[float]]]:
    means = [of["mean"] for of in estimates]
    # An interval may leave its mean out by the last digit.
    return means, [
        [max(0.0, of["mean"] - of["low"]) for of in estimates],
        [max(0.0, of["high"] - of["mean"]) for of in estimates],
    ]


def _ordered(values: list[float], order: list[int]) -> list[float]:
    return [values[index] for index in order]
