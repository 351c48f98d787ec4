"""The tables of a comparison as CSV; a plot's is `Plot.table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.results import Results
from prefopt.comparison.summary import Difference, Estimate, Setting

__all__ = ["write_csv", "write_summary"]

_FIGURES = ["metric", "objective", "seeds", "mean", "low", "high", "interval_over"]
_DIFFERENCE = ["difference", "difference_low", "difference_high", "p_items", "p_items_holm", "p_seeds", "p_seeds_holm"]


def write_summary(results: Results, path: Path) -> None:
    """A line for each row and metric, then one for each frontier and measure, with its differences from the baseline
    and from its control."""
    measures = [(plane, measure) for plane in results.planes for measure in plane.measures]
    lines: dict[tuple[str, str, Setting], dict[str, Any]] = {}
    for row in results.rows:
        for metric, estimate in row.metrics.items():
            lines[metric, row.name, row.setting] = _line(metric, row.name, row.setting, estimate)
    for plane, measure in measures:
        for name, estimate in measure.estimates.items():
            lines[measure.words, name, plane.setting] = _line(measure.words, name, plane.setting, estimate)
    _join(lines, [*results.differences, *(d for _, m in measures for d in m.differences)], "baseline", "")
    _join(
        lines,
        [*results.control_differences, *(d for _, m in measures for d in m.control_differences)],
        "control",
        "control_",
    )
    columns = [
        *_FIGURES,
        *results.suite.sweeps,
        "baseline",
        *_DIFFERENCE,
        "control",
        *(f"control_{c}" for c in _DIFFERENCE),
    ]
    write_csv(pd.DataFrame(list(lines.values()), columns=columns), path)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, lineterminator="\r\n")


def _line(metric: str, name: str, setting: Setting, estimate: Estimate) -> dict[str, Any]:
    values = (metric, name, estimate.count, estimate.mean, estimate.low, estimate.high, estimate.over)
    return dict(zip(_FIGURES, values, strict=True)) | dict(setting)


def _join(
    lines: dict[tuple[str, str, Setting], dict[str, Any]], differences: Sequence[Difference], opponent: str, prefix: str
) -> None:
    for d in differences:
        values = (d.estimate.mean, d.estimate.low, d.estimate.high, d.p_items, d.holm_items, d.p_seeds, d.holm_seeds)
        columns = (f"{prefix}{column}" for column in _DIFFERENCE)
        lines[d.metric, d.name, d.setting] |= {opponent: d.against} | dict(zip(columns, values, strict=True))
