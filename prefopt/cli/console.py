"""What the commands share: the console, errors as plain lines with an exit code, and the kinds of component by name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from errno import EPIPE
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

if TYPE_CHECKING:
    from prefopt.component import Component, Named

UNUSABLE = 2
"""Exit code for input that cannot be used."""

console = Console()
error_console = Console(stderr=True, soft_wrap=True, highlight=False)


DEBUG = ContextVar("debug", default=False)
"""Whether errors are raised, for their traceback."""

_MOST = 500
"""Characters of the one line that is printed of an error that no command expects."""


@contextmanager
def exit_on(*errors: type[Exception]) -> Iterator[None]:
    """Print these errors and their notes without a traceback, and exit with UNUSABLE; with --debug, raise them."""
    try:
        yield
    except errors as error:
        if DEBUG.get():
            raise
        for line in str(error).splitlines() or [type(error).__name__]:
            error_console.print(f"[red]error:[/] {escape(line)}")
        _print_notes(error)
        raise typer.Exit(UNUSABLE) from None


class PlainErrors(TyperGroup):
    """Commands whose unexpected errors, those of libraries, are one line and the exit code UNUSABLE too, without
    --debug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer's own have an exit code, and it knows what to do with these and with a pipe that was closed.
            if DEBUG.get() and isinstance(error, EOFError):
                raise RuntimeError("a file ended early") from error  # Typer would say "Aborted."
            is_typers = hasattr(error, "exit_code") or isinstance(error, typer.Abort)
            if is_typers or DEBUG.get() or (isinstance(error, OSError) and error.errno == EPIPE):
                raise
            message = " ".join(str(error).split())
            cut = f"{message[:_MOST]} ..." if len(message) > _MOST else message
            remedy = "`prefopt --debug` and the command show the traceback"
            error_console.print(f"[red]error:[/] {escape(f'{type(error).__name__}: {cut}')} ({remedy})")
            _print_notes(error)
            raise typer.Exit(UNUSABLE) from None


def _print_notes(error: Exception) -> None:
    for note in getattr(error, "__notes__", ()):
        error_console.print(escape(note))


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
