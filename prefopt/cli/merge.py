"""prefopt merge"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prefopt.cli.console import console, exit_on, show_progress
from prefopt.launch import reject_launch


def merge(
    run: Annotated[
        str, typer.Argument(help="A run with an adapter, one of its checkpoints, or an adapter.", metavar="RUN")
    ],
    out: Annotated[Path, typer.Argument(help="The folder of the whole model, which is made.", metavar="OUT")],
) -> None:
    """Merge an adapter into its base, and save a whole model with its tokenizer that transformers loads by itself."""
    from prefopt.training.merging import merge as merge_adapter

    show_progress()
    with exit_on(ValueError, OSError):
        reject_launch()
        merged = merge_adapter(run, out)
    console.print(
        escape(
            f"Wrote {merged.folder}: the base with the adapter ({merged.kind}) in its weights. Read again, its logits "
            f"differ from the adapter's by {merged.difference:.1g} of the largest."
        ),
        soft_wrap=True,
        highlight=False,
    )
