"""prefopt check"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from prefopt.cli.console import console, exit_on

if TYPE_CHECKING:
    from prefopt.component import Component

__all__ = ["check"]

_STYLES = {"pass": "green", "fail": "red", "expected failure": "yellow"}


def check(
    name: Annotated[str, typer.Argument(help="An installed component.")],
    fields: Annotated[
        list[str] | None, typer.Argument(help="Its fields, such as value=0.5", metavar="[FIELD=VALUE]...")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Its kind, such as token-weighting, where several have the name.")
    ] = None,
    expect: Annotated[
        list[str] | None, typer.Option(help="A check that it is known to fail. One that passes all the same fails.")
    ] = None,
) -> None:
    """Run the conformance suite on an installed component. Exit code 1 where a check fails."""
    from prefopt.registry import PluginError
    from prefopt.testing import examine
    from prefopt.testing.check import label

    with exit_on(ValueError, PluginError):
        component = _component(name, kind, fields or ())
        results = examine(component, dict.fromkeys(expect or (), "named by --expect"))
    table = Table(
        Column("check", no_wrap=True), Column("result", no_wrap=True), "found", box=None, padding=(0, 2, 0, 0)
    )
    for result in results:
        style = _STYLES[result.status]
        table.add_row(result.check.name, f"[{style}]{result.status}", escape(result.text))
    console.print(f"[bold]{escape(label(component))}[/], a {component.kind}\n")
    console.print(table)
    failures = sum(result.status == "fail" for result in results)
    console.print(f"\n{len(results)} checks, {failures or 'none'} failed.")
    if failures:
        raise typer.Exit(1)


def _component(name: str, kind: str | None, fields: Sequence[str]) -> Component:
    from prefopt.hookspecs import HOOKS
    from prefopt.registry import available, installed, resolve
    from prefopt.validation import did_you_mean

    kinds = {each.kind.replace(" ", "-"): each for each in HOOKS}
    if kind is not None and kind not in kinds:
        raise ValueError(f"no kind {kind!r}.{did_you_mean(kind, kinds)} Kinds: {', '.join(kinds)}.")
    found = [word for word, each in kinds.items() if name in available(each) and kind in (None, word)]
    if not found:
        known = sorted(each.model_fields["name"].default for each, _ in installed() if kind in (None, _word(each)))
        raise ValueError(f"no component named {name!r}.{did_you_mean(name, known)} Installed: {', '.join(known)}.")
    if len(found) > 1:
        raise ValueError(f"{name!r} is the name of several components; add --kind, one of {', '.join(found)}")
    return resolve(kinds[found[0]], {"name": name, **dict(_parsed(text) for text in fields)})


def _word(component: type[Component]) -> str:
    return component.kind.replace(" ", "-")


def _parsed(text: str) -> tuple[str, object]:
    import yaml

    field, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text}: write a field as field=value, such as value=0.5")
    return field, yaml.safe_load(value)
