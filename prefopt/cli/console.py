"""What the commands share: the console, and errors as plain lines with an exit code."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

__all__ = ["UNUSABLE", "console", "error_console", "exit_on", "show_progress"]

UNUSABLE = 2
"""Exit code where what the user gave cannot be used."""

console = Console()
error_console = Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def exit_on(*expected: type[Exception]) -> Iterator[None]:
    """Print these errors as they read, without a traceback, and leave with exit code 2."""
    try:
        yield
    except expected as error:
        for line in str(error).splitlines():
            error_console.print(f"[red]error:[/] {escape(line)}")
        for note in getattr(error, "__notes__", ()):
            error_console.print(escape(note))
        raise typer.Exit(UNUSABLE) from None


def show_progress() -> None:
    """Let prefopt's own messages through, and of the libraries' only warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    own = logging.getLogger("prefopt")
    own.setLevel(logging.INFO)
    own.addHandler(handler)
