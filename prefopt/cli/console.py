"""What the commands share: the console, errors as plain lines with an exit code, and the kinds of component by name."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from errno import EPIPE
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from prefopt.cli.shared_errors import print_once
from prefopt.origins import origin_in_plugins
from prefopt.printing import PrintableConsole, printable

if TYPE_CHECKING:
    from prefopt.component import Component, Named

UNUSABLE = 2
"""Exit code for input that cannot be used."""

EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "done",
        1: "done, and what it is about failed, as the command's help says",
        UNUSABLE: "input that cannot be used, or a fault, a line for each",
        130: "interrupted",
    }
)
"""Exit codes of all commands."""


console = PrintableConsole()
error_console = PrintableConsole(stderr=True, soft_wrap=True, highlight=False)


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
        if DEBUG.get() or _is_closed_pipe(error):
            raise
        hint = "" if _is_raised_here(error) else _hint(error)
        _print_error([line + hint for line in _lines_of(error)], error)
        raise typer.Exit(UNUSABLE) from None


def _is_closed_pipe(error: Exception) -> bool:
    """Whether what reads the output has ended, as head does: no fault, and Typer knows how to end with it."""
    return isinstance(error, OSError) and error.errno == EPIPE


def _lines_of(error: Exception) -> list[str]:
    """One line for each problem: of prefopt's own errors each of their lines, of a library's all of them as one."""
    is_own = type(error).__module__.partition(".")[0] == "prefopt"
    message = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        message = f"{error.filename}: {error.strerror}"  # which str puts behind the number of the error
    lines = message.splitlines() if is_own else [" ".join(message.split())]
    return [line for line in lines if line] or [type(error).__name__]


def _hint(error: BaseException) -> str:
    """Where to look: the line of the plugin that it comes from, if any, and how to see the traceback."""
    parts = (origin_in_plugins(error), "`prefopt --debug` and the command show the traceback")
    return f" ({'; '.join(filter(None, parts))})"


def _is_raised_here(error: Exception) -> bool:
    """Whether it is prefopt's own code that raised the error, and not a plugin's or a library's."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] == "prefopt"


class PlainErrors(TyperGroup):
    """Commands whose unexpected errors, those of libraries, are one line and the exit code UNUSABLE too, without
    --debug; and so are words that they do not take. Each warning is a line."""

    def main(self, *args: Any, **extra: Any) -> Any:
        plain = {**extra, "standalone_mode": False}
        if not extra.get("standalone_mode", True):
            return super().main(*args, **plain)
        try:
            code = super().main(*args, **plain)
        except typer.Abort:
            error_console.print("[red]error:[/] aborted")
            sys.exit(1)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            context = getattr(error, "ctx", None)
            if not type(error).__name__.startswith("NoArgs"):  # which has printed the help
                command = "prefopt" if context is None else context.command_path
                message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
                _print_error([f"{message}; see `{command} --help`"], error)
            sys.exit(UNUSABLE)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        console.quiet = False  # which a command before it, in one program, may have left
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                # PEFT asks every model for it; there is nothing that a user could do.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                return super().invoke(ctx)
        except Exception as error:
            # Typer's own have an exit code, and it knows what to do with these and with a pipe that was closed.
            if DEBUG.get() and isinstance(error, EOFError):
                raise RuntimeError("a file ended early") from error  # Typer would say "Aborted."
            is_typers = hasattr(error, "exit_code") or isinstance(error, typer.Abort)
            if is_typers or DEBUG.get() or _is_closed_pipe(error):
                raise
            message = " ".join(str(error).split())
            cut = f"{message[:_MOST]} ..." if len(message) > _MOST else message
            _print_error([f"{type(error).__name__}: {cut}{_hint(error)}"], error)
            raise typer.Exit(UNUSABLE) from None


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    error_console.print(f"[yellow]warning:[/] {escape(' '.join(str(message).split()))}")


def _print_error(lines: list[str], error: Exception) -> None:
    """Print the lines and the error's notes, by one of the processes that have the same."""
    notes = list(getattr(error, "__notes__", ()))

    def show() -> None:
        for line in lines:
            error_console.print(f"[red]error:[/] {escape(line)}")
        for note in notes:
            error_console.print(escape(note))

    print_once("\n".join([*lines, *notes]), show)


class _ProgressHandler(logging.Handler):
    """Prints records to what standard error is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(self.format(record)), file=sys.stderr, flush=True)


def show_progress() -> None:
    """Print prefopt's log from level INFO, of several processes that of the first, and the others' warnings; other
    libraries print warnings, and bars on a terminal alone."""
    from prefopt.data.quiet import show_bars

    show_bars(sys.stderr.isatty())
    logger = logging.getLogger("prefopt")
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if not any(isinstance(handler, _ProgressHandler) for handler in logger.handlers):  # or every line is there twice
        logger.addHandler(_ProgressHandler())


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
