"""Trains a grid of objectives, betas, settings and seeds on the planted task, and writes what came of it.

python -m benchmarks.planted --help
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.planted.frontiers import summary
from benchmarks.planted.grid import BETAS, Run, Runs, grid
from benchmarks.planted.report import tell
from benchmarks.planted.work import carry_out

__all__ = ["compare"]

_HERE = Path(__file__).parent
_LIBRARIES = ("prefopt", "torch", "transformers")
_BETAS = " ".join(f"{beta:g}" for beta in BETAS)


def compare(
    objectives: Annotated[Path, typer.Option(help="YAML of objectives.")] = _HERE / "objectives.yaml",
    settings: Annotated[Path, typer.Option(help="YAML of settings of the task.")] = _HERE / "settings.yaml",
    objective: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    beta: Annotated[
        list[float] | None, typer.Option(help=f"May be repeated. Default: each objective's own, else {_BETAS}.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated. Default: 0 1 2 3 4.")] = None,
    learning_rate: Annotated[float, typer.Option(help="Of the policies.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="In pairs.")] = 16,
    at: Annotated[list[float] | None, typer.Option(help="Compare rewards at this KL. Default: 1.5 3 6.")] = None,
    within: Annotated[float, typer.Option(help="The KL up to which frontiers are measured.")] = 12.0,
    processes: Annotated[int, typer.Option(help="Runs at a time, a thread each.")] = 1,
    work: Annotated[Path, typer.Option(help="For material and runs.jsonl, the finished runs.")] = Path("runs/planted"),
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = _HERE.parent / "results",
    date: Annotated[str, typer.Option(help="Of the results.")] = datetime.date.today().isoformat(),
    hardware: Annotated[str | None, typer.Option(help="In words.")] = None,
) -> None:
    """Carry out the runs that are not finished yet, then write DATE-planted.{md,json,png}."""
    runs = grid(
        objectives,
        settings,
        only_objectives=objective or (),
        only_settings=setting or (),
        betas=beta or (),
        seeds=seed or range(5),
        learning_rate=learning_rate,
        batch_size=batch_size,
    )
    finished = Runs(work / "runs.jsonl")
    missing = [run for run in runs if run.key not in finished.done]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before", flush=True)
    start = time.monotonic()
    for count, (run, figures) in enumerate(_carried_out(missing, work, processes), start=1):
        finished.add(run, figures)
        left = (time.monotonic() - start) / count * (len(missing) - count)
        metrics = figures["metrics"]
        shown = "  ".join(f"{name} {metrics[name]:.3g}" for name in ("auroc_w", "reward", "sequence_kl"))
        print(f"{count}/{len(missing)}  {run}: {shown}  ({left / 60:.0f} min left)", flush=True)

    facts: dict[str, Any] = {
        "date": date,
        "hardware": hardware or f"{os.cpu_count()} {platform.machine()} cores, 1 thread a run",
        "versions": {library: importlib.metadata.version(library) for library in _LIBRARIES},
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "within": within,
        **summary(finished.of(runs), runs, at=at or (1.5, 3.0, 6.0), within=within),
    }
    results.mkdir(parents=True, exist_ok=True)
    stem = results / f"{date}-planted"
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tell(facts, stem.with_suffix(".md"))
    print(f"Written: {stem}.md and .json")
    try:
        from benchmarks.planted.plot import draw
    except ModuleNotFoundError as error:
        print(f"No picture: {error}. pip install matplotlib, and run this again: finished runs are not repeated.")
    else:
        draw(facts, stem.with_suffix(".png"))
        print(f"Written: {stem}.png")


def _carried_out(runs: Sequence[Run], work: Path, processes: int) -> Iterator[tuple[Run, dict[str, Any]]]:
    if processes == 1:
        for run in runs:
            yield run, carry_out(run, work)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        # References first: they make the material that the other runs of their setting and seed then find.
        for part in ([run for run in runs if run.row is None], [run for run in runs if run.row is not None]):
            waiting = {pool.submit(carry_out, run, work): run for run in part}
            for future in as_completed(waiting):
                yield waiting[future], future.result()


if __name__ == "__main__":
    typer.run(compare)
