"""Carries out a suite: every run that is not finished yet, in this process or several, each written down at once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from transformers import Trainer

from prefopt.comparison.attempt import attempt
from prefopt.comparison.controls import controls
from prefopt.comparison.launch import accelerators, refuse_what_cannot_be_sent
from prefopt.comparison.pool import LOOK, Pool
from prefopt.comparison.progress import Board, Steps, follow
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record, RunLog, write_parquet
from prefopt.comparison.run_queue import Agenda
from prefopt.comparison.suite import Suite
from prefopt.comparison.tensorboard import write_run

__all__ = ["RUNS", "SUITE", "compare"]

SUITE, RUNS, _PARQUET = "suite.yaml", "runs.jsonl", "runs.parquet"

End = Callable[[Run, Record, int], None]


def compare(suite: Suite, folder: Path, *, console: Console | None = None, processes: int | None = None) -> list[Run]:
    """Carry out the runs of the suite that the folder does not hold yet, and return those that failed.

    The folder then holds the suite in full, runs.jsonl and runs.parquet, and the material and reference cache that the
    runs shared. Controls come after the runs that they belong to. A run that raises is written down with its traceback,
    and is tried again the next time; the others go on. One that is stopped from outside leaves what was finished.
    Others may be at the same folder: no run is carried out twice, and what they are at is waited for.

    processes  at the runs at the same time, each on an accelerator; 1: this one. None: one for each accelerator, else 1
    Raises PoolError where further processes do not start, or cannot be given the runs.
    """
    console = console or Console()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / SUITE, suite.to_yaml())
    grid = suite.runs()
    devices = accelerators(grid)
    processes = max(1, devices) if processes is None else processes
    if processes > 1:
        refuse_what_cannot_be_sent(grid)
    log = RunLog(folder / RUNS)

    def runs() -> list[Run]:
        return [*grid, *controls(suite, log.records)]

    agenda = Agenda(log, folder, runs)
    done, total = agenda.count()
    console.print(f"{total} runs, {done} of them finished before", highlight=False)
    with agenda, Board(console, processes) as board:

        def end(run: Run, record: Record, place: int) -> None:
            agenda.close(run, record)
            if record["error"] is None:
                write_run(run, record, folder)
            said, failed = _said(run, record, suite), record["error"] is not None
            board.end(said, *agenda.count(), failed=failed, place=place)

        if processes == 1:
            _work_here(agenda, folder, board, end)
        else:
            with Pool(folder, processes, devices) as pool:
                pool.work(agenda, board, end)
    write_parquet(runs(), log.records, folder / _PARQUET)
    return agenda.failed()


def _work_here(agenda: Agenda, folder: Path, board: Board, end: End) -> None:
    while agenda.left():
        board.count(*agenda.count())
        if (run := agenda.take()) is None:
            time.sleep(LOOK)  # others are at what is left
            continue
        record = attempt(run, folder, show=_shown(board, board.begin(str(run))))
        end(run, record, 0)


def _shown(board: Board, steps: Steps) -> Callable[[Trainer], None]:
    def show(trainer: Trainer) -> None:
        board.pause()  # filling the reference cache has a display of its own
        follow(trainer, steps)

    return show


def _write(path: Path, text: str) -> None:
    """Whole or not at all, whoever else writes it."""
    unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _said(run: Run, record: Record, suite: Suite) -> str:
    if record["error"] is not None:
        return f"{run}: failed, {record['error']}"
    measured: Sequence[str] = [metric.name for metric in suite.metrics if record["values"].get(metric.name)]
    shown = [f"{name} {fmean(record['values'][name].values()):.3g}" for name in measured[:3]]
    return f"{run}: {', '.join(shown)} ({sum(record['seconds'].values()):.0f} s)"
