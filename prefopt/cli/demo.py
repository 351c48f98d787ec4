"""prefopt demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefopt.cli.console import exit_on

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for models, results and the page.")] = Path("runs/demo"),
    model: Annotated[
        str | None, typer.Option(help="A causal LM by name or folder. Without one, a small one is trained first.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts, one a line; needed with --model.")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Preference data. Without any, pairs are sampled and scored.")
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="YAML or JSON with lists of `positive` and `negative` words.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of each objective.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Fixes corpus, sampling and training.")] = 0,
) -> None:
    """Train DPO and SparsePO side by side on a small made corpus, or on your own, and write a page of results."""
    from pydantic import ValidationError

    from prefopt.data import DataError
    from prefopt.demo import DemoConfig, run_demo
    from prefopt.validation import explain

    given = {"model": model, "prompts": prompts, "pairs": pairs, "words": words, "steps": steps}
    with exit_on(DataError, ValueError, OSError, FloatingPointError):
        try:
            config = DemoConfig(
                out=out, seed=seed, **{name: value for name, value in given.items() if value is not None}
            )
        except ValidationError as error:
            raise ValueError("\n".join(explain(error, DemoConfig))) from error
        run_demo(config)
