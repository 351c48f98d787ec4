"""The tables and plots of a comparison as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.comparison.frontier import Frontiers
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Estimate, Row, Setting
from prefopt.report.plots import Plot

__all__ = ["write_plot", "write_summary"]

_FIGURES = ("metric", "objective", "seeds", "mean", "low", "high", "interval_over")
_AGAINST = ("difference", "difference_low", "difference_high", "p_items", "p_items_holm", "p_seeds", "p_seeds_holm")

Found = Mapping[tuple[str, str, Setting], Difference]


def write_summary(
    suite: Suite,
    table: Sequence[Row],
    of: Sequence[Difference],
    masks: Sequence[Difference],
    planes: Sequence[Frontiers],
    path: Path,
) -> None:
    """A line for each row and metric, then one for each frontier and measure, each with its difference from the
    baseline and, where it has a control, from that."""
    measures = [(plane, measure) for plane in planes for measure in plane.measures]
    from_baseline = _found([*of, *(each for _, measure in measures for each in measure.differences)])
    from_control = _found([*masks, *(each for _, measure in measures for each in measure.of_masks)])
    columns = [*_FIGURES, *suite.sweeps, "baseline", *_AGAINST, "control", *(f"control_{name}" for name in _AGAINST)]
    estimates = [(metric, row.name, row.setting, of) for row in table for metric, of in row.metrics.items()]
    estimates += [(m.words, name, plane.setting, of) for plane, m in measures for name, of in m.estimates.items()]
    _write(path, columns, (_line(*each, from_baseline, from_control) for each in estimates))


def write_plot(suite: Suite, plot: Plot, path: Path) -> None:
    """A line for each point of the plot, and for those that are too far away to be drawn."""
    _write(path, plot.columns(list(suite.sweeps)), plot.table(list(suite.sweeps)))


def _write(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(lines)


def _found(of: Iterable[Difference]) -> Found:
    return {(each.metric, each.name, each.setting): each for each in of}


def _line(
    metric: str, name: str, setting: Setting, known: Estimate, from_baseline: Found, from_control: Found
) -> dict[str, Any]:
    values = (metric, name, known.count, known.mean, known.low, known.high, known.over)
    line: dict[str, Any] = dict(zip(_FIGURES, values, strict=True)) | dict(setting)
    for whom, prefix, found in (("baseline", "", from_baseline), ("control", "control_", from_control)):
        if (each := found.get((metric, name, setting))) is not None:
            line[whom] = each.against
            line |= {f"{prefix}{column}": value for column, value in _compared(each)}
    return line


def _compared(of: Difference) -> Iterator[tuple[str, float | None]]:
    known = of.estimate
    values = (known.mean, known.low, known.high, of.p_items, of.holm_items, of.p_seeds, of.holm_seeds)
    return zip(_AGAINST, values, strict=True)
