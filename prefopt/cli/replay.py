"""prefopt replay"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from prefopt.cli.console import console, exit_on
from prefopt.launch import reject_launch

NOT_REPRODUCED = 1
"""Exit code where all numbers of the step are finite here."""


def replay(
    run: Annotated[
        Path,
        typer.Argument(
            help="The output_dir of a run that its numbers have stopped.", metavar="RUN", show_default=False
        ),
    ],
    reference: Annotated[
        str | None, typer.Option(help="The reference model, where the run does not say which it was.")
    ] = None,
) -> None:
    """Compute the step that stopped a run again, and show where its numbers first are not finite.

    Exit code 1 where all of them are finite here.
    """
    from prefopt.plugins import PluginError
    from prefopt.training import replay as replay_step

    # ValueError: FailedStepError, SavedRunError, RunFileError and ComponentError. OSError: from_pretrained's.
    with exit_on(ValueError, PluginError, OSError):
        reject_launch()
        replayed = replay_step(run, reference=reference)
    record = replayed.step.record
    console.print(escape(record["error"]), highlight=False, soft_wrap=True)
    title = f"step {record['step']}, computed again: the first tensor of each response that is not finite"
    table = Table("pair", "side", *replayed.precisions, title=title, title_justify="left")
    for response in replayed.responses:
        cells = [response.tensors[precision] or "finite" for precision in replayed.precisions]
        table.add_row(*map(escape, (response.where, response.side, *cells)))
    finite = replayed.number - len(replayed.responses)
    table.add_row(f"{finite} of {replayed.number}", "", *["finite"] * len(replayed.precisions))
    table.add_row(
        "norm of the gradients", "", *[f"{replayed.norms[precision]:.3g}" for precision in replayed.precisions]
    )
    console.print(table)
    console.print(f"Weights before the step: {escape(replayed.weights)}.", highlight=False, soft_wrap=True)
    console.print(replayed.verdict, highlight=False, soft_wrap=True)
    if not replayed.is_reproduced:
        raise typer.Exit(NOT_REPRODUCED)
