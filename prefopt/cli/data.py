"""prefopt data"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from prefopt.cli import completion
from prefopt.cli.console import console, exit_on

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prefopt.columns import Column

app = typer.Typer(help="Look at preference data.", no_args_is_help=True)

_PAIRS_SHOWN = 3


@app.callback()
def _group() -> None:
    """Look at preference data."""


@app.command()
def check(
    sources: Annotated[list[str], typer.Argument(help="Files, folders or hub names.", metavar="FILE")],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", "-t", help="A model's name or folder. Without one, lengths are in bytes."),
    ] = None,
    split: Annotated[str, typer.Option(help="Of a hub data set or a saved DatasetDict.")] = "train",
    max_length: Annotated[
        int | None,
        typer.Option(help="Most tokens of prompt and response together; 0: no limit. Without it, training's default."),
    ] = None,
    max_prompt_length: Annotated[int | None, typer.Option(help="Most tokens of the prompt.")] = None,
    on_too_long: Annotated[str, typer.Option(help="truncate, drop or stop.")] = "truncate",
    chat_template_kwargs: Annotated[
        str, typer.Option(help='For the chat template, as YAML: "{enable_thinking: false}".')
    ] = "{}",
    column: Annotated[
        list[str] | None, typer.Option(help="Our field=the data set's column, such as prompt=question.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="As in a run file: its name or its YAML. The columns that it reads are checked, too.",
            autocompletion=completion.objectives,
        ),
    ] = None,
) -> None:
    """Read data as training does: counts, lengths and three pairs, or the errors (exit code 2)."""
    from prefopt.data import DataError, EncodingConfig, prepare, read_rows
    from prefopt.registry import PluginError

    with exit_on(DataError, ValueError, PluginError, OSError):
        columns = dict(map(parse_renaming, column or ()))
        extra = () if objective is None else _columns_of(objective, tokenizer)
        encoder = _tokenizer(tokenizer)
        config = EncodingConfig.model_validate(
            {
                "max_prompt_length": max_prompt_length,
                "on_too_long": on_too_long,
                "chat_template_kwargs": _yaml("--chat-template-kwargs", chat_template_kwargs),
            }
            | _limit(max_length, in_bytes=tokenizer is None)
        )
        for source in sources:
            rows = read_rows(source, split=split)
            dataset, report = prepare(rows, encoder, config, description=source, columns=columns, extra=extra)
            console.print(f"[bold]{escape(source)}")
            for line in report.lines():
                if tokenizer:
                    console.print(f"  {escape(line)}")
                elif "chat template" not in line:  # the stand-in's, of which nothing follows for a model's
                    console.print(f"  {escape(line.replace('tokens of', 'bytes of'))}")
            for row in dataset.select(range(min(_PAIRS_SHOWN, len(dataset)))):
                _print_pair(row, encoder, extra)


def _limit(max_length: int | None, *, in_bytes: bool) -> dict[str, int | None]:
    """`max_length` of an encoding; none where it is left to the default, and that is training's."""
    if max_length is None and not in_bytes:
        return {}
    return {"max_length": max_length or None}


def parse_renaming(text: str) -> tuple[str, str]:
    """(field, column) of an option `--column field=column`. Raises ValueError for text without "="."""
    field, equals, column = text.partition("=")
    if not equals:
        raise ValueError(f"--column {text}: write it as field=column, such as prompt=question")
    return field, column


def _columns_of(objective: str, tokenizer: str | None) -> tuple[Column, ...]:
    from prefopt.columns import TokenColumn
    from prefopt.zoo import build

    columns = build(_yaml("--objective", objective)).columns
    for column in columns:
        if tokenizer is None and isinstance(column, TokenColumn):
            raise ValueError(f"--objective {objective}: it reads {column.name!r} for each token; name the --tokenizer")
    return columns


def _yaml(option: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{option} {text}: neither a name nor YAML: {error}") from error


def _tokenizer(name: str | None) -> PreTrainedTokenizerBase:
    from transformers import ByT5Tokenizer

    from prefopt.training.loading import load_tokenizer

    if name is not None:
        return load_tokenizer(name)
    tokenizer = ByT5Tokenizer()  # its tokens are bytes, so it needs no files
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    return tokenizer


def _print_pair(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, extra: Sequence[Column]) -> None:
    console.print(f"\n  [dim]{escape(row['where'])}")
    for field, style in (("prompt", "dim"), ("chosen", "green"), ("rejected", "red")):
        text = tokenizer.decode(row[f"{field}_ids"])
        cut = " [yellow](cut)[/]" if row.get(f"{field}_truncated") else ""
        console.print(f"  [bold]{field:>8}[/] [{style}]{escape(repr(text))}[/]{cut}")
    for key in (key for column in extra for key in column.keys):
        side, _, name = key.partition(":")
        ids = row.get(f"{side}_ids")
        values = f"{row[key]:g}" if ids is None else "  ".join(_runs_of_equal_values(ids, row[key], tokenizer))
        console.print(f"  [bold]{side:>8}[/] {escape(name)}: {escape(values)}")


def _runs_of_equal_values(
    ids: Sequence[int], values: Sequence[float], tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    """Text and value of each run of adjacent tokens that have the same value."""
    for value, run in groupby(zip(values, ids, strict=True), key=lambda pair: pair[0]):
        yield f"{tokenizer.decode([token for _, token in run])!r} {value:g}"
