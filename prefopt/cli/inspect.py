"""prefopt inspect"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prefopt.cli.console import console, exit_on, show_progress
from prefopt.cli.data import parse_renaming
from prefopt.launch import reject_launch


def inspect(
    run: Annotated[
        Path,
        typer.Argument(help="The output_dir of a run, or one of its checkpoints.", metavar="RUN", show_default=False),
    ],
    data: Annotated[str, typer.Option(help="Pairs: a file, folder or hub name.")],
    out: Annotated[
        Path | None, typer.Option(help="A folder for index.html, tokens.parquet and inspection.json.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the inspection that the folder holds.")
    ] = False,
    by: Annotated[str | None, typer.Option(help="What shades the tokens: w, v, log_ratio or divergence.")] = None,
    pairs: Annotated[int, typer.Option(min=0, help="Pairs to show here, from the first on.")] = 3,
    page_pairs: Annotated[int, typer.Option(min=0, help="Pairs to show on the page.")] = 50,
    plain: Annotated[bool, typer.Option("--plain", help="A level after each token in place of a shade.")] = False,
    minimum: Annotated[int, typer.Option(min=1, help="Rank tokens that occur at least this often.")] = 5,
    reference: Annotated[
        str | None, typer.Option(help="The reference model, where the run does not say which it was.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a hub data set or a saved DatasetDict.")] = "train",
    column: Annotated[
        list[str] | None, typer.Option(help="Our field=the data set's column, such as prompt=question.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Most tokens of prompt and response, where it is to be another than the run's."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs that are scored at a time.")] = 8,
) -> None:
    """Show what a run's objective makes of each token: its weights, log-ratio and divergence."""
    from prefopt.data import DataError
    from prefopt.inspection import inspect_run
    from prefopt.inspection.layers import layer_named, layers
    from prefopt.inspection.pipeline import reject_inspected
    from prefopt.inspection.terminal import pair_views, ranking_table, summary_table
    from prefopt.plugins import PluginError
    from prefopt.training import SavedRun

    show_progress()
    # ValueError: SavedRunError, RunFileError and ComponentError among others. OSError: from_pretrained's.
    with exit_on(DataError, ValueError, PluginError, OSError, FloatingPointError):
        reject_launch()
        if out is not None:
            reject_inspected(out, overwrite=overwrite)
        columns = dict(map(parse_renaming, column or ()))
        saved = SavedRun.load(run, reference=reference)
        shading = None if by is None else layer_named(layers(saved.model.objective.config), by.replace("-", "_"))
        inspection = inspect_run(
            saved,
            data,
            split=split,
            columns=columns,
            max_length=max_length,
            out=out,
            overwrite=overwrite,
            shown=max(pairs, page_pairs),
            minimum=minimum,
            batch_size=batch_size,
        )
    layer = shading or inspection.default
    coloured = not plain and console.color_system is not None and not console.no_color
    console.print(summary_table(inspection))
    for view in pair_views(inspection, layer, number=pairs, coloured=coloured):
        console.print(view, highlight=False)
    console.print()
    if layer.name in inspection.rankings:
        console.print(ranking_table(inspection.rankings[layer.name], layer, minimum=minimum))
    else:
        console.print(f"{layer.name} is {inspection.summaries[layer.name].mean:.4g} for every token.")
    for file in inspection.files:
        console.print(f"Wrote {escape(str(file))}", soft_wrap=True, highlight=False)
