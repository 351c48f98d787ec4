"""The report of a comparison, from what its folder holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from prefopt.comparison.controls import controls
from prefopt.comparison.frontier import frontiers
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.runner import RUNS, SUITE
from prefopt.comparison.suite import Suite, SuiteError
from prefopt.comparison.summary import differences, rows, what_masks_add
from prefopt.comparison.tensorboard import FOLDER as TENSORBOARD
from prefopt.comparison.tensorboard import write_runs
from prefopt.report.csv_files import write_plot, write_summary
from prefopt.report.page import write_page
from prefopt.report.plotted import PLOTS, plots

__all__ = ["report"]


def report(folder: Path) -> list[Path]:
    """Write report.html, summary.csv, the folder tensorboard and, for each plot, a CSV and, where matplotlib is
    installed, a PNG; return them.

    They are of the suite that was carried out last in the folder. Raises SuiteError where there is none.
    """
    if not (folder / SUITE).exists() or not (folder / RUNS).exists():
        raise SuiteError(f"{folder}: no {SUITE} and {RUNS} here; name the folder that `prefopt compare` wrote")
    suite = Suite.load(folder / SUITE)
    records = RunLog(folder / RUNS).records
    table = rows(suite, records)
    of, masks, planes = differences(suite, table), what_masks_add(suite, table), frontiers(suite, table)
    drawn = plots(suite, table, planes)
    page, sheet = folder / "report.html", folder / "summary.csv"
    write_page(suite, folder, table, of, masks, planes, drawn, page)
    write_summary(suite, table, of, masks, planes, sheet)
    write_runs((*suite.runs(), *controls(suite, records)), records, folder)
    written = [page, sheet, folder / TENSORBOARD]
    for name in PLOTS:  # of an earlier suite, or of figures that are there no more
        for ending in ("csv", "png"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)
    for name, plot in drawn.items():
        write_plot(suite, plot, folder / f"{name}.csv")
        written.append(folder / f"{name}.csv")
    if importlib.util.find_spec("matplotlib") is not None:
        from prefopt.report.picture import draw  # here, because a report needs no matplotlib

        for name, plot in drawn.items():
            draw(suite, plot, folder / f"{name}.png")
            written.append(folder / f"{name}.png")
    return written
