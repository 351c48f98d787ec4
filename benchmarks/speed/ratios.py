"""What one contender takes as a share of what another takes, round by round, and whether that is what was aimed at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median, quantiles
from typing import Any

from benchmarks.speed.contenders import Target

__all__ = ["against_targets", "highest", "middle", "ratio"]

Run = Mapping[str, Any]


def middle(run: Run, figure: str) -> float:
    """The median over the steps."""
    return median(float(step[figure]) for step in run["steps"])


def highest(run: Run, figure: str) -> float:
    """The highest over the steps."""
    return max(float(step[figure]) for step in run["steps"])


def ratio(one: Run, other: Run, figure: str) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile over rounds of the ratio within a round."""
    ratios = [a[figure] / b[figure] for a, b in zip(one["steps"], other["steps"], strict=True)]
    if len(ratios) < 2:
        return (ratios[0],) * 3
    low, mid, high = quantiles(ratios, n=4, method="inclusive")
    return low, mid, high


def against_targets(shapes: Mapping[str, Any], targets: Iterable[Target]) -> list[dict[str, Any]]:
    """A row for each target and shape that was run: the ratios, and what was aimed at. Memory is a ratio of the highest
    of all steps."""
    ratios = []
    for target in targets:
        for shape, result in shapes.items():
            runs = result["runs"]
            if target.shape not in (None, shape) or not {target.contender, target.against} <= runs.keys():
                continue
            one, other = runs[target.contender], runs[target.against]
            ratios.append(
                {
                    "contender": target.contender,
                    "against": target.against,
                    "shape": shape,
                    "time": ratio(one, other, "seconds"),
                    "cpu_time": ratio(one, other, "cpu_seconds"),
                    "time_target": target.time,
                    "memory": highest(one, "added_mib") / highest(other, "added_mib"),
                    "memory_target": target.memory,
                }
            )
    return ratios
