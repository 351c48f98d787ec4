"""Carries out a suite: every run that is not finished yet, one after the other, each written down at once."""

from __future__ import annotations

import importlib.metadata
import platform
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from prefopt.comparison.controls import controls
from prefopt.comparison.progress import Board
from prefopt.comparison.records import RunLog, write_parquet
from prefopt.comparison.run import Run
from prefopt.comparison.suite import Suite
from prefopt.comparison.work import carry_out
from prefopt.registry import brought_by

__all__ = ["RUNS", "SUITE", "compare"]

SUITE, RUNS, _PARQUET = "suite.yaml", "runs.jsonl", "runs.parquet"

_LIBRARIES = ("prefopt", "torch", "transformers", "accelerate", "datasets", "tokenizers")


def compare(suite: Suite, folder: Path, *, console: Console | None = None) -> list[Run]:
    """Carry out the runs of the suite that the folder does not hold yet, and return those that failed.

    The folder then holds the suite in full, runs.jsonl and runs.parquet, and the material and reference cache that the
    runs shared. Controls come after the runs that they belong to. A run that raises is written down with its traceback,
    and is tried again the next time; the others go on. One that is stopped from outside leaves what was finished.
    """
    console = console or Console()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUITE).write_text(suite.to_yaml(), encoding="utf-8")
    log = RunLog(folder / RUNS)
    runs = _once(suite.runs())
    missing = [run for run in runs if not log.finished(run)]
    console.print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before", highlight=False)
    with Board(console, len(runs), len(runs) - len(missing)) as board:
        for run in missing:
            _carry_out(run, suite, folder, log, board)
        # What a control is, is known when the run that it belongs to is finished.
        missing = [run for run in _once(controls(suite, log.records)) if not log.finished(run)]
        board.add(len(missing))
        for run in missing:
            _carry_out(run, suite, folder, log, board)
    every = [*suite.runs(), *controls(suite, log.records)]
    write_parquet(every, log.records, folder / _PARQUET)
    return [run for run in _once(every) if not log.finished(run)]


def _once(runs: Iterable[Run]) -> list[Run]:
    """Two names may stand for the same run, which is carried out once, under the first."""
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.key, run)
    return list(found.values())


def _carry_out(run: Run, suite: Suite, folder: Path, log: RunLog, board: Board) -> None:
    board.begin(str(run))
    record = _record(run)
    try:
        record |= carry_out(run, folder, show=board.follow)
    except Exception as error:  # written down, said below and in the exit code; it may be this run's alone
        record |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    log.add(record)
    board.end(_said(run, record, suite), failed=record["error"] is not None)


def _record(run: Run) -> dict[str, Any]:
    """What is known of a run before it begins."""
    return {
        "key": run.key,
        "name": run.name,
        "setting": dict(run.setting),
        "seed": run.seed,
        "configuration": run.configuration,
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in _LIBRARIES},
        "components": brought_by(() if run.objective is None else run.objective.components),
        "values": {},
        "samples": {},
        "profiles": {},
        "heat_maps": [],
        "curves": {},
        "seconds": {},
        "peak_memory_mib": None,
        "error": None,
        "traceback": None,
    }


def _said(run: Run, record: dict[str, Any], suite: Suite) -> str:
    if record["error"] is not None:
        return f"{run}: failed, {record['error']}"
    measured: Sequence[str] = [metric.name for metric in suite.metrics if record["values"].get(metric.name)]
    shown = [f"{name} {fmean(record['values'][name].values()):.3g}" for name in measured[:3]]
    return f"{run}: {', '.join(shown)} ({sum(record['seconds'].values()):.0f} s)"
