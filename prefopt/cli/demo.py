"""prefopt demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prefopt.cli.compare import compare
from prefopt.cli.console import console

SUITE = Path(__file__).parents[1] / "suites" / "demo.yaml"
"""The suite of the demo."""


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Dotted overrides of the demo's suite, such as training.max_steps=50 seeds=[7] or, for a model and "
            "data of one's own, task.model=NAME task.prompts=prompts.txt task.scorer.file=words.json"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the page.")] = Path("runs/demo"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the comparison that the folder holds, once this one can begin.")
    ] = False,
) -> None:
    """Train DPO and SparsePO side by side on a small generated corpus, or on your own, and write a page of results.

    It carries out a suite that comes with prefopt, as `prefopt compare` does: runs that the folder holds are not
    repeated.
    """
    compare(SUITE, overrides, out=out, overwrite=overwrite)
    console.print(f"The page: {escape(str((out / 'report.html').absolute()))}", soft_wrap=True, highlight=False)
