"""prefopt compare, prefopt report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prefopt.cli import completion
from prefopt.cli.console import console, exit_on
from prefopt.launch import reject_launch


def compare(
    suite: Annotated[Path, typer.Argument(help="Task, objectives, sweeps, seeds and training, in YAML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Dotted overrides, such as training.max_steps=10 seeds=[0] sweeps.objective.beta=[0.1]",
            autocompletion=completion.suite_overrides,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder, which may hold finished runs. Default: runs/compare/NAME.")
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="Only this one of the suite's; may be given several times.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="So many processes, a run each at a time. Default: one for each accelerator, else 1."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What carries out runs: local, ray, slurm, or a YAML file with the name and its fields.")
    ] = "local",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the comparison that the folder holds, once this one can begin.")
    ] = False,
) -> None:
    """Train and measure every objective of a suite, at every setting and seed, and write a report.

    Runs that the folder holds are not repeated. Exit code 1 where a run failed; it is tried again the next time.
    """
    from concurrent.futures import BrokenExecutor

    from prefopt.comparison.engines import load_engine
    from prefopt.comparison.runner import ONE_PROCESS
    from prefopt.comparison.runner import compare as run_suite
    from prefopt.comparison.suite import Suite, SuiteError
    from prefopt.plugins import PluginError
    from prefopt.report import report as write

    folder = out or Path("runs/compare") / suite.stem
    with exit_on(SuiteError, PluginError, BrokenExecutor, ImportError, ValueError, OSError):
        reject_launch(ONE_PROCESS)  # before the suite is read, whose arguments would have the processes meet
        carries_out = load_engine(engine, {} if processes is None else {"processes": processes})
        read = Suite.load(suite, overrides or (), objective or ())
        failed = run_suite(read, folder, console=console, executor=carries_out, overwrite=overwrite)
        written = write(folder)
    _say(written)
    if failed:
        console.print(f"[red]{len(failed)} runs failed[/]; the report says why. The same command tries them again.")
        raise typer.Exit(1)


def report(
    folder: Annotated[Path, typer.Argument(help="What `prefopt compare` wrote.")],
    text: Annotated[bool, typer.Option("--text", help="Print the verdict instead, and write nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the verdict and all figures as JSON instead, and write nothing.")
    ] = False,
) -> None:
    """Write the report of a comparison anew, from its suite.yaml and runs.jsonl."""
    from prefopt.comparison.results import Results
    from prefopt.comparison.suite import SuiteError
    from prefopt.plugins import PluginError
    from prefopt.report import report as write
    from prefopt.report import terminal

    with exit_on(SuiteError, PluginError, ValueError, OSError):
        if text and as_json:
            raise ValueError("--text and --json: give one of them")
        if text or as_json:
            results = Results.load(folder)
            print(terminal.as_text(results) if text else terminal.as_json(results))
        else:
            reject_launch()
            _say(write(folder))


def _say(written: list[Path]) -> None:
    console.print(f"Wrote {escape(', '.join(map(str, written)))}.", soft_wrap=True, highlight=False)
