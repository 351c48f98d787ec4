"""The command line. A command imports what it needs when it runs, so that help and the version come at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prefopt.cli import (
    check,
    compare,
    completion,
    config,
    data,
    demo,
    doctor,
    inspect,
    merge,
    migrate,
    new_plugin,
    replay,
    train,
    zoo,
)
from prefopt.cli.console import DEBUG, EXIT_CODES, PlainErrors, console, exit_on

__all__ = ["app"]

app = typer.Typer(
    name="prefopt",
    cls=PlainErrors,
    help="Preference optimisation for language models: objectives as settings of six slots.",
    epilog=f"Exit codes: {'; '.join(f'{code}: {meaning}' for code, meaning in EXIT_CODES.items())}.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    """Print the versions of prefopt, Python and torch, from metadata: nothing is imported for them."""
    if wanted:
        from importlib.metadata import version

        python = ".".join(map(str, sys.version_info[:3]))
        console.print(f"prefopt {version('prefopt')} (Python {python}, torch {version('torch')})", highlight=False)
        raise typer.Exit


@app.callback()
def _before_any_command(
    without_plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Exclude a plugin: its distribution or distribution:entry-point, as in PREFOPT_WITHOUT_PLUGINS. "
            "May be given several times.",
            autocompletion=completion.plugins,
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error in place of its one line.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    DEBUG.set(debug)
    if without_plugin:
        from prefopt.plugins import PluginError, exclude

        with exit_on(PluginError):
            exclude(without_plugin)


app.command()(train.train)
app.command()(replay.replay)
app.command()(compare.compare)
app.command()(compare.report)
app.command()(inspect.inspect)
app.command()(merge.merge)
app.command()(zoo.zoo)
app.command()(zoo.components)
app.command()(check.check)
app.command()(new_plugin.new_plugin)
app.command()(config.config)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(migrate.migrate)
app.add_typer(data.app, name="data")
