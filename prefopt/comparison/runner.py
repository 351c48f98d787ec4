"""Compares: executes all runs of a suite that are not finished, and logs each of them at once."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean

from rich.console import Console

from prefopt.comparison.call import Call, execute_for
from prefopt.comparison.controls import controls, masked
from prefopt.comparison.engines import Engine, LocalEngine
from prefopt.comparison.execute import failure
from prefopt.comparison.folder import ComparisonFolder
from prefopt.comparison.preflight import reject_unusable
from prefopt.comparison.progress import Board
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import RUNS, Record, RunLog
from prefopt.comparison.run_queue import RunQueue
from prefopt.comparison.suite import Suite
from prefopt.comparison.tensorboard import write_run
from prefopt.launch import reject_launch
from prefopt.printing import PrintableConsole

Outcome = Future[Record | OSError]

ONE_PROCESS = "start one, without the launcher: it spreads the runs itself (--processes, --engine)"
"""What to do where a launcher has started several."""


def compare(
    suite: Suite,
    folder: Path,
    *,
    console: Console | None = None,
    processes: int | None = None,
    executor: Executor | Engine | None = None,
    overwrite: bool = False,
) -> list[Run]:
    """Execute the runs of the suite that the folder does not hold yet, and return those that failed.

    The folder then holds the suite in full, runs.jsonl, and the material and reference cache that the runs share.
    Controls come after the runs that they belong to. A run that raises, or whose process dies, is logged with what is
    known of it and tried again the next time; the others go on. After an interrupt the folder has all that was
    finished.

    processes  of this machine, a run each at a time, each on an accelerator; 1: this process. None: one for each
               accelerator, else 1
    executor   what carries out runs in the place of such processes: an engine, or any Executor, which is left as it is.
               Its processes have to see the folder, and each is to have one run at a time
    overwrite  whether the comparison that the folder holds is removed, once this one can begin; without that, a suite
               that lacks finished runs of the one that is there is refused
    Raises SuiteError with a line for each mistake, before the first run, where what the runs need is not there or of no
    use; EngineError where an engine cannot be used; OSError where a disk is full; OutputFolderError where another call
    is at work in the folder, or it holds other things than this comparison; BrokenExecutor where the executor can
    carry out no more runs; and ValueError where a launcher has started several processes.
    """
    if executor is not None and processes is not None:
        raise ValueError("processes: are of this machine, and the executor has its own; leave one of the two out")
    reject_launch(ONE_PROCESS)
    console = console or PrintableConsole()
    output = ComparisonFolder(folder, suite, overwrite=overwrite)
    log = RunLog(folder / RUNS)
    output.reject_occupied(log)
    grid = suite.runs()
    with output.claimed(log), _started(executor or LocalEngine(processes=processes), grid, folder) as started:
        if overwrite:
            reject_unusable(grid, folder)
            output.begin()
            log = RunLog(folder / RUNS)
        queue = RunQueue(log, lambda: [*grid, *controls(suite, log.records)], brings=partial(_controls_to_come, suite))
        finished, total = queue.count()
        console.print(f"{total} runs, {finished} of them finished before", highlight=False)
        if not overwrite:
            reject_unusable(queue.pending(), folder)
            output.begin()
        with (
            Call.begin(folder) as call,
            Board(console, call.progress) as board,
            closing(_carry_out(queue, started, call)) as over,
        ):
            board.count(finished, total)
            for run, record in over:
                queue.finish(run, record)
                failed = record["error"] is not None
                if not failed:
                    write_run(run, record, folder)
                board.end(_line(run, record, suite), *queue.count(), failed=failed)
        return queue.failed()


@contextmanager
def _started(executor: Executor | Engine, runs: list[Run], folder: Path) -> Iterator[Executor]:
    """The executor; that of an engine ends with the block."""
    if isinstance(executor, Executor):
        yield executor
    else:
        with executor.start(runs, folder) as started:
            yield started


def _carry_out(queue: RunQueue, executor: Executor, call: Call) -> Generator[tuple[Run, Record]]:
    """Each run of the queue with its record, as it ends."""
    submitted: set[str] = set()
    under_way: dict[Outcome, Run] = {}

    def ended(timeout: float | None) -> Iterator[tuple[Run, Record]]:
        for future in wait(under_way, timeout, FIRST_COMPLETED).done:
            run = under_way.pop(future)
            call.end(run)
            yield run, _record(run, future, call)

    try:
        while (fresh := [run for run in queue.pending() if run.key not in submitted]) or under_way:
            for run in fresh:
                submitted.add(run.key)
                under_way[executor.submit(execute_for, call, run)] = run
                yield from ended(0)  # an executor may carry out a run when it is submitted
            yield from ended(None)
    finally:
        for future in under_way:
            future.cancel()


def _record(run: Run, future: Outcome, call: Call) -> Record:
    """The record of a run that is over. Raises BrokenExecutor, and OSError where a disk is full."""
    error = CancelledError("by the executor") if future.cancelled() else future.exception()
    if isinstance(error, BrokenExecutor):
        raise error
    if error is not None:
        first, *more = str(error).strip().splitlines() or [""]
        notes = getattr(error, "__notes__", ())
        return failure(run, f"{type(error).__name__}: {first}", "\n".join([*more, *notes, call.output(run)]))
    outcome = future.result()
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


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
