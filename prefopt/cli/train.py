"""prefopt train"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from prefopt.cli import completion
from prefopt.cli.console import console, exit_on, show_progress
from prefopt.origins import origin_in_plugins

if TYPE_CHECKING:
    from prefopt.training import RunPlan


def train(
    run_file: Annotated[Path, typer.Argument(help="The run: model, data, objective and training, in YAML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Dotted overrides, such as objective.beta=0.5 training.learning_rate=1e-6",
            autocompletion=completion.run_overrides,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run that the output folder holds, once this one can start.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check data and models, print the resolved run and its plan, write nothing."),
    ] = False,
) -> None:
    """Train a policy on preference pairs from a run file.

    Exit code 1 of a dry run whose models cannot be traced, so that there is no plan; such a run may still train.
    """
    from transformers import PrinterCallback
    from transformers.trainer_callback import ProgressCallback

    from prefopt.registry import PluginError
    from prefopt.scoring import StoreError
    from prefopt.tasks.judges import resolve_judge
    from prefopt.training import RunFile, UnknownPlanError, plan_run, start
    from prefopt.training import train as run_training
    from prefopt.training.lost_process import LostProcessError, naming_lost_process
    from prefopt.training.manifest import CheckpointError
    from prefopt.training.output_folder import OutputFolderError

    show_progress()
    # ValueError: RunFileError, DataError and ModelFileError among others. OSError: from_pretrained's, of no such model.
    with exit_on(ValueError, PluginError, OSError, LostProcessError), naming_lost_process():
        run = RunFile.load(run_file, overrides or ())
        trainer = start(run, overwrite=overwrite, dry_run=dry_run, judges=resolve_judge)
    console.quiet = not trainer.is_world_process_zero()  # errors are each process's own
    if not sys.stderr.isatty() and trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(PrinterCallback)  # the log without a bar
    if dry_run:
        console.print(run.to_yaml(), markup=False, highlight=False, soft_wrap=True)
    try:
        plan = plan_run(trainer)
        console.print(_plan_table(plan))
        if plan.advice:
            console.print(plan.advice, markup=False, highlight=False, soft_wrap=True)
    except UnknownPlanError as error:
        console.print(f"No plan: {escape(str(error))}")
    except Exception as error:  # a plan traces the models; modelling code that cannot be traced may still train
        origin = origin_in_plugins(error)
        console.print(f"No plan: {type(error).__name__}: {escape(str(error) + (origin and f' ({origin})'))}")
        if dry_run:
            raise typer.Exit(1) from error
    if dry_run:
        pairs = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps * trainer.args.world_size
        console.print(f"{trainer.state.max_steps:,} steps of {pairs:,} pairs. Nothing was written or trained.")
        return
    stops = (CheckpointError, OutputFolderError, FloatingPointError, StoreError, OSError, LostProcessError)
    with exit_on(*stops), naming_lost_process():
        result = run_training(trainer)
    if result.evaluation:
        table = Table("metric", "held out", title="evaluation", title_justify="left")
        for name, value in sorted(result.evaluation.items()):
            table.add_row(name.removeprefix("eval_"), f"{value:.4g}")
        console.print(table)
    saved = f"Saved in {result.folder}: the policy, the objective, README.md, run.yaml and about.json."
    console.print(saved, markup=False, soft_wrap=True)


def _plan_table(plan: RunPlan) -> Table:
    title = f"the heaviest step: {plan.pairs} pairs a batch, up to {plan.longest} tokens a pair, predicted"
    table = Table("part", "memory", "work", title=title, title_justify="left")
    for name, memory, work in plan.rows():
        table.add_row(name, memory, work)
    return table
