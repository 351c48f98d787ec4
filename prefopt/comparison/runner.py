"""Compares: executes all runs of a suite that are not finished, and logs each of them at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean

from rich.console import Console

from prefopt.comparison.controls import controls, masked
from prefopt.comparison.executors import WorkerPool, accelerators, execute_here, require_importable
from prefopt.comparison.folder import ComparisonFolder
from prefopt.comparison.preflight import reject_unusable
from prefopt.comparison.progress import Board
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import RUNS, Record, RunLog, RunQueue
from prefopt.comparison.suite import Suite
from prefopt.comparison.tensorboard import write_run
from prefopt.printing import PrintableConsole


def compare(
    suite: Suite,
    folder: Path,
    *,
    console: Console | None = None,
    processes: int | None = None,
    overwrite: bool = False,
) -> list[Run]:
    """Execute the runs of the suite that the folder does not hold yet, and return those that failed.

    The folder then holds the suite in full, runs.jsonl, and the material and reference cache that the runs share.
    Controls come after the runs that they belong to. A run that raises is logged with its traceback and tried again the
    next time; the others go on. After an interrupt the folder has all that was finished. Several calls may share a
    folder: no run is executed twice, and each call waits for the runs of the others.

    processes  worker processes, a run each at a time, each on an accelerator; 1: this process. None: one for each
               accelerator, else 1
    overwrite  whether the comparison that the folder holds is removed, once this one can begin; without that, a suite
               that lacks finished runs of the one that is there is refused
    Raises SuiteError with a line for each mistake, before the first run, where what the runs need is not there or of no
    use; OSError where a disk is full; OutputFolderError where the folder holds other things than this comparison; and
    WorkerError where worker processes do not start, or cannot import what the runs consist of.
    """
    console = console or PrintableConsole()
    output = ComparisonFolder(folder, suite, overwrite=overwrite)
    log = RunLog(folder / RUNS)
    output.reject_occupied(log)
    folder.mkdir(parents=True, exist_ok=True)
    grid = suite.runs()
    devices = accelerators(grid)
    processes = max(1, devices) if processes is None else processes
    if processes > 1:
        require_importable(grid)
    if overwrite:
        reject_unusable(grid, folder)
        output.begin(log)
        log = RunLog(folder / RUNS)
    queue = RunQueue(
        log, folder, lambda: [*grid, *controls(suite, log.records)], brings=partial(_controls_to_come, suite)
    )
    finished, total = queue.count()
    console.print(f"{total} runs, {finished} of them finished before", highlight=False)
    if not overwrite:
        reject_unusable(queue.pending(), folder)
        output.begin(log)
    with queue, Board(console, processes) as board:

        def end(run: Run, record: Record, slot: int) -> None:
            queue.finish(run, record)
            failed = record["error"] is not None
            if not failed:
                write_run(run, record, folder)
            board.end(_line(run, record, suite), *queue.count(), failed=failed, slot=slot)

        if processes == 1:
            execute_here(queue, folder, board, end)
        else:
            with WorkerPool(folder, processes, devices) as pool:
                pool.execute(queue, board, end)
    return queue.failed()


def _controls_to_come(suite: Suite, run: Run) -> int:
    """How many controls a run brings when it is finished, unless its mask is zero throughout."""
    return int(suite.controls and run.control is None and run.objective is not None and masked(run.objective))


def _line(run: Run, record: Record, suite: Suite) -> str:
    """What the console says of a run that is over."""
    if record["error"] is not None:
        return f"{run}: failed, {record['error']}"
    measured = [metric.name for metric in suite.metrics if record["values"].get(metric.name)]
    means = [f"{name} {fmean(record['values'][name].values()):.3g}" for name in measured[:3]]
    return f"{run}: {', '.join(means)} ({sum(record['seconds'].values()):.0f} s)"
