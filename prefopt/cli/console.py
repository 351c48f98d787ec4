"""What the commands share: the console, errors as plain lines with an exit code, and the kinds of component by name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from prefopt.component import Component, Named

UNUSABLE = 2
"""Exit code for input that cannot be used."""

console = Console()
error_console = Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def exit_on(*errors: type[Exception]) -> Iterator[None]:
    """Print these errors and their notes without a traceback, and exit with UNUSABLE."""
    try:
        yield
    except errors as error:
        for line in str(error).splitlines():
            error_console.print(f"[red]error:[/] {escape(line)}")
        for note in getattr(error, "__notes__", ()):
            error_console.print(escape(note))
        raise typer.Exit(UNUSABLE) from None


def show_progress() -> None:
    """Print prefopt's log from level INFO; other libraries print warnings only."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("prefopt")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def kind_name(component: type[Named]) -> str:
    """The kind as the command line writes it, such as token-weighting."""
    return component.kind.replace(" ", "-")


def component_kinds() -> dict[str, type[Component]]:
    """The kinds of component by `kind_name`."""
    from prefopt.hookspecs import KINDS

    return {kind_name(kind): kind for kind in KINDS}


def reject_unknown_kind(kind: str, kinds: Iterable[str]) -> None:
    """Raise ValueError where `kind` is none of the kinds."""
    from prefopt.validation import did_you_mean

    names = list(kinds)
    if kind not in names:
        raise ValueError(f"no kind {kind!r}.{did_you_mean(kind, names)} Kinds: {', '.join(names)}.")
