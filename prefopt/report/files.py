"""The files of a report, from the folder of a comparison."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.controls import controls
from prefopt.comparison.differences import Difference
from prefopt.comparison.results import Results
from prefopt.comparison.summary import Estimate, Setting
from prefopt.comparison.tensorboard import FOLDER as TENSORBOARD
from prefopt.comparison.tensorboard import write_runs
from prefopt.report.charts import looks
from prefopt.report.page import write_page
from prefopt.report.plots import PLOTS, plots
from prefopt.whole_files import publish_text

_FIGURES = ["metric", "objective", "seeds", "mean", "low", "high", "interval_over"]
_DIFFERENCE = ["difference", "difference_low", "difference_high", "difference_seeds", "p_items", "p_signs", "p_t", "p"]


def report(folder: Path) -> list[Path]:
    """Write report.html, summary.csv, the folder tensorboard and, for each plot, a CSV and, where matplotlib is
    installed, a PNG; return them.

    They are of the suite that was run last in the folder. Raises SuiteError where there is none.
    """
    results = Results.load(folder)
    suite, drawn = results.suite, plots(results)
    page = folder / "report.html"
    write_page(results, drawn, folder, page)
    tables = {"summary": summary(results)} | {name: plot.table(list(suite.sweeps)) for name, plot in drawn.items()}
    write_runs((*suite.runs(), *controls(suite, results.records)), results.records, folder)
    written = [page, folder / TENSORBOARD]
    for name, table in tables.items():
        publish_text(table.to_csv(index=False, lineterminator="\r\n"), folder / f"{name}.csv")
        written.append(folder / f"{name}.csv")
    if importlib.util.find_spec("matplotlib") is not None:
        from prefopt.report.pictures import draw  # a report needs no matplotlib

        for name, plot in drawn.items():
            draw(plot, looks(suite), folder / f"{name}.png")
            written.append(folder / f"{name}.png")
    for path in (folder / f"{name}.{suffix}" for name in PLOTS for suffix in ("csv", "png")):
        if path not in written:  # of an earlier state of the suite
            path.unlink(missing_ok=True)
    return written


def summary(results: Results) -> pd.DataFrame:
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
    table = pd.DataFrame(list(lines.values()), columns=columns)
    return table.astype(
        {"difference_seeds": "Int64", "control_difference_seeds": "Int64"}
    )  # counts, where there are any


def _line(metric: str, name: str, setting: Setting, estimate: Estimate) -> dict[str, Any]:
    values = (metric, name, estimate.count, estimate.mean, estimate.low, estimate.high, estimate.over)
    return dict(zip(_FIGURES, values, strict=True)) | dict(setting)


def _join(
    lines: dict[tuple[str, str, Setting], dict[str, Any]], differences: Sequence[Difference], opponent: str, prefix: str
) -> None:
    for d in differences:
        e = d.estimate
        values = (e.mean, e.low, e.high, e.count, d.p_items, d.p_signs, d.p_t, d.p)
        columns = (f"{prefix}{column}" for column in _DIFFERENCE)
        # An objective that is compared with its control alone has no estimate beside the others.
        line = lines.setdefault(
            (d.metric, d.name, d.setting), {"metric": d.metric, "objective": d.name, **dict(d.setting)}
        )
        line |= {opponent: d.against} | dict(zip(columns, values, strict=True))
