"""The report of a comparison, from what its folder holds: a page, a table and, with matplotlib, a picture."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefopt.comparison.frontier import Frontiers, frontiers
from prefopt.comparison.page import write_page
from prefopt.comparison.records import RunLog
from prefopt.comparison.runner import RUNS, SUITE
from prefopt.comparison.suite import Suite, SuiteError
from prefopt.comparison.summary import Difference, Estimate, Row, differences, rows

__all__ = ["report"]

_FIGURES = ("metric", "objective", "seeds", "mean", "low", "high", "interval_over")
_AGAINST = ("difference", "difference_low", "difference_high", "p_items", "p_items_holm", "p_seeds", "p_seeds_holm")


def report(folder: Path) -> list[Path]:
    """Write report.html, summary.csv and, where matplotlib is installed, frontier.png; return their paths.

    They are of the suite that was carried out last in the folder. Raises SuiteError where there is none.
    """
    if not (folder / SUITE).exists() or not (folder / RUNS).exists():
        raise SuiteError(f"{folder}: no {SUITE} and {RUNS} here; name the folder that `prefopt compare` wrote")
    suite = Suite.load(folder / SUITE)
    table = rows(suite, RunLog(folder / RUNS).records)
    of = differences(suite, table)
    planes = frontiers(suite, table)
    page, sheet, picture = (folder / name for name in ("report.html", "summary.csv", "frontier.png"))
    write_page(suite, folder, table, of, planes, page)
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*_FIGURES, *suite.sweeps, "baseline", *_AGAINST], restval="")
        writer.writeheader()
        writer.writerows(_lines(suite, table, of, planes))
    if not planes or importlib.util.find_spec("matplotlib") is None:
        return [page, sheet]
    from prefopt.comparison.picture import draw  # here, because a report needs no matplotlib

    draw(suite, planes, picture)
    return [page, sheet, picture]


def _lines(
    suite: Suite, table: Sequence[Row], of: Sequence[Difference], planes: Sequence[Frontiers]
) -> Iterator[dict[str, Any]]:
    """A line for each row and metric, then one for each frontier and measure."""
    found = {(each.metric, each.name, each.setting): each for each in of}
    for row in table:
        for metric, known in row.metrics.items():
            yield _line(suite, metric, row.name, row.setting, known, found.get((metric, row.name, row.setting)))
    for plane in planes:
        for measure in plane.measures:
            by_name = {each.name: each for each in measure.differences}
            for name, known in measure.estimates.items():
                yield _line(suite, measure.words, name, plane.setting, known, by_name.get(name))


def _line(
    suite: Suite, metric: str, name: str, setting: Any, known: Estimate, against: Difference | None
) -> dict[str, Any]:
    values = (metric, name, known.count, known.mean, known.low, known.high, known.over)
    line: dict[str, Any] = dict(zip(_FIGURES, values, strict=True)) | dict(setting)
    if against is not None:
        difference = against.estimate
        compared = (difference.mean, difference.low, difference.high, against.p_items, against.holm_items)
        line |= dict(zip(_AGAINST, (*compared, against.p_seeds, against.holm_seeds), strict=True))
        line["baseline"] = suite.against
    return line
