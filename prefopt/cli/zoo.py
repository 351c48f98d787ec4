"""prefopt zoo, prefopt components"""

from __future__ import annotations

import inspect
from typing import Annotated

import typer
import yaml
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table

from prefopt.cli.console import console, plainly

__all__ = ["components", "zoo"]


def zoo(name: Annotated[str | None, typer.Argument(help="One objective, in full.")] = None) -> None:
    """The named objectives; with a NAME, its equation, source, slots and YAML."""
    from prefopt.zoo import ZOO, build

    if name is None:
        table = Table("name", "equation", box=None, padding=(0, 2, 0, 0))
        for row, function in ZOO.items():
            table.add_row(f"[bold]{row}", escape(inspect.getdoc(function).partition("\n")[0]))  # type: ignore[union-attr]
        console.print(table)
        console.print(
            "\nr: log-ratio of a response token; k: KL(reference || policy) there; c: chosen, j: rejected; sums over "
            "tokens."
        )
        return
    with plainly(ValueError):
        config = build(name)
    defaults = ", ".join(f"{p.name}={p.default}" for p in inspect.signature(ZOO[name]).parameters.values())
    console.print(f"[bold]{name}[/]({escape(defaults)})\n")
    console.print(Padding(escape(inspect.getdoc(ZOO[name]) or ""), (0, 0, 1, 2)))
    table = Table("slot", "component", "equation", box=None, padding=(0, 2, 0, 0))
    for component in config.components:
        table.add_row(component.kind, component.name, escape(_equation(type(component))))
    console.print(table)
    console.print("\nas YAML, for `objective` in a run file:")
    console.print(Syntax(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), "yaml"))


def components(kind: Annotated[str | None, typer.Argument(help="One kind, such as token-weighting.")] = None) -> None:
    """The installed components: kind, name, who brings them, equation."""
    from prefopt.hookspecs import HOOKS
    from prefopt.registry import PluginError, installed
    from prefopt.validation import did_you_mean

    kinds = [known.kind.replace(" ", "-") for known in HOOKS]
    with plainly(ValueError, PluginError):
        if kind is not None and kind not in kinds:
            raise ValueError(f"no kind {kind!r}.{did_you_mean(kind, kinds)} Kinds: {', '.join(kinds)}.")
        found = [(component, owner) for component, owner in installed()]
    table = Table("kind", "name", "distribution", "version", "equation", box=None, padding=(0, 2, 0, 0))
    for component, owner in found:
        words = component.kind.replace(" ", "-")
        if kind in (None, words):
            name = component.model_fields["name"].default
            table.add_row(words, name, owner.distribution, owner.version, escape(_equation(component)))
    console.print(table)


def _equation(component: type) -> str:
    return (inspect.getdoc(component) or "").partition("\n")[0]
