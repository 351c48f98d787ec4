"""The report of a comparison, from its folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from prefopt.comparison.controls import controls
from prefopt.comparison.results import Results
from prefopt.comparison.tensorboard import FOLDER as TENSORBOARD
from prefopt.comparison.tensorboard import write_runs
from prefopt.report.charts import looks
from prefopt.report.csv_files import write_csv, write_summary
from prefopt.report.page import write_page
from prefopt.report.plots import PLOTS, plots

__all__ = ["report"]


def report(folder: Path) -> list[Path]:
    """Write report.html, summary.csv, the folder tensorboard and, for each plot, a CSV and, where matplotlib is
    installed, a PNG; return them.

    They are of the suite that was run last in the folder. Raises SuiteError where there is none.
    """
    results = Results.load(folder)
    suite, drawn = results.suite, plots(results)
    page, summary = folder / "report.html", folder / "summary.csv"
    write_page(results, drawn, folder, page)
    write_summary(results, summary)
    write_runs((*suite.runs(), *controls(suite, results.records)), results.records, folder)
    written = [page, summary, folder / TENSORBOARD]
    for name in PLOTS:  # those of an earlier suite
        for suffix in ("csv", "png"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for name, plot in drawn.items():
        write_csv(plot.table(list(suite.sweeps)), folder / f"{name}.csv")
        written.append(folder / f"{name}.csv")
    if importlib.util.find_spec("matplotlib") is not None:
        from prefopt.report.pictures import draw  # a report needs no matplotlib

        for name, plot in drawn.items():
            draw(plot, looks(suite), folder / f"{name}.png")
            written.append(folder / f"{name}.png")
    return written
