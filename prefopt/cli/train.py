"""prefopt train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from prefopt.cli.console import console, plainly, show_progress

__all__ = ["train"]


def train(
    run_file: Annotated[Path, typer.Argument(help="The run: model, data, objective and training, in YAML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Dotted overrides, such as objective.beta=0.5 training.learning_rate=1e-6"),
    ] = None,
) -> None:
    """Train a policy on preference pairs, as a run file says."""
    from prefopt.data import DataError
    from prefopt.registry import PluginError
    from prefopt.training import RunFile, RunFileError, start
    from prefopt.training import train as carry_out

    show_progress()
    # OSError: what from_pretrained raises where there is no such model.
    with plainly(RunFileError, DataError, PluginError, OSError):
        run = RunFile.load(run_file, overrides or ())
        trainer = start(run)
    with plainly(FloatingPointError):
        result = carry_out(trainer)
    if result.evaluation:
        table = Table("metric", "held out", title="evaluation", title_justify="left")
        for name, value in sorted(result.evaluation.items()):
            table.add_row(name.removeprefix("eval_"), f"{value:.4g}")
        console.print(table)
    console.print(f"Saved in {result.folder}: the policy, the objective, run.yaml and about.json.")
