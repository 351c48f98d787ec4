"""The command line: its exit codes, and a section for each command."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from html import escape
from typing import Any

import typer

from prefopt.cli import app
from prefopt.cli.console import EXIT_CODES


def exit_codes() -> str:
    """A table."""
    return "\n".join(["| exit code | |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXIT_CODES.items())])


def sections() -> str:
    """Of every command: its help, usage, arguments and options."""
    command = typer.main.get_command(app)
    return "\n\n".join(_sections(command, command.make_context("prefopt", [], resilient_parsing=True)))


def _sections(command: Any, context: Any) -> Iterator[str]:
    usage = f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}"
    parts = [f"## {context.command_path}", f"    {usage}", escape(inspect.cleandoc(command.help or ""), quote=False)]
    if rows := [_row(parameter, context) for parameter in command.params if not getattr(parameter, "hidden", False)]:
        parts.append("\n".join(["| | default | meaning |", "|---|---|---|", *rows]))
    yield "\n\n".join(parts)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _sections(inner, inner.make_context(name, [], parent=context, resilient_parsing=True))


def _row(parameter: Any, context: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = parameter.get_usage_pieces(context)
    default = parameter.get_default(context)
    shown = "" if callable(default) or default in (None, False, "", [], ()) else f"`{default}`"
    cells = (", ".join(f"`{name}`" for name in names), "needed" if parameter.required else shown, parameter.help or "")
    return "| " + " | ".join(escape(cell.replace("|", "\\|"), quote=False) for cell in cells) + " |"
