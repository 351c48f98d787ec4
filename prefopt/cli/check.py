"""prefopt check"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from prefopt.cli import completion
from prefopt.cli.console import component_kinds, console, exit_on, kind_name, reject_unknown_kind

if TYPE_CHECKING:
    from prefopt.component import Component
    from prefopt.testing import Result

_STYLES = {"pass": "green", "fail": "red", "expected failure": "yellow"}


def check(
    name: Annotated[str, typer.Argument(help="An installed component.", autocompletion=completion.components)],
    fields: Annotated[
        list[str] | None, typer.Argument(help="Its fields, such as value=0.5", metavar="[FIELD=VALUE]...")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Its kind, such as token-weighting, where several have the name.",
            autocompletion=completion.component_kinds,
        ),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            help="A check that it is expected to fail; if it passes, the suite fails.",
            autocompletion=completion.checks,
        ),
    ] = None,
) -> None:
    """Run the conformance suite on an installed component. Exit code 1 where a check fails that is not expected to."""
    from prefopt.registry import PluginError
    from prefopt.testing import examine
    from prefopt.testing.check import label

    with exit_on(ValueError, PluginError):
        component = _component(name, kind, fields or ())
        results = examine(component, dict.fromkeys(expect or (), "named by --expect"))
    columns = (Column("check", no_wrap=True), Column("result", no_wrap=True), Column("detail", overflow="fold"))
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    stopped = {name for result in results for name in result.stops}
    for result in results:
        if result.check.name not in stopped:
            style = _STYLES[result.status]
            table.add_row(result.check.name, f"[{style}]{result.status}", escape(_detail(result)))
    console.print(f"[bold]{escape(label(component))}[/], a {component.kind}\n")
    console.print(table)
    counts = Counter(result.status for result in results)
    failures, expected = counts["fail"], counts["expected failure"]
    causes = failures - len(stopped)
    by_causes = f" by {causes} {'cause' if causes == 1 else 'causes'}" if stopped else ""
    as_expected = f", {expected} failed as expected" if expected else ""
    console.print(f"\n{len(results)} checks, {failures or 'none'} failed{by_causes}{as_expected}.")
    if failures:
        raise typer.Exit(1)


def _detail(result: Result) -> str:
    """What is said of a check; of an exception that stops others too, those in place of why this one matters."""
    if not result.stops or result.fault is None:
        return result.text
    on = f"\non: {result.fault.on}" if result.fault.on else ""
    return f"{result.fault.fault}{on}\nstops {len(result.stops)} more checks: {', '.join(result.stops)}"


def _component(name: str, kind: str | None, fields: Sequence[str]) -> Component:
    from prefopt.plugins import without_entry_point
    from prefopt.registry import installed, resolve
    from prefopt.validation import did_you_mean

    kinds = component_kinds()
    if kind is not None:
        reject_unknown_kind(kind, kinds)
    candidates = [(cls.model_fields["name"].default, kind_name(cls)) for cls, _ in installed()]
    names = sorted(candidate for candidate, its_kind in candidates if kind in (None, its_kind))
    matches = [its_kind for candidate, its_kind in candidates if candidate == name and kind in (None, its_kind)]
    if not matches:
        remedy = did_you_mean(name, names) + without_entry_point()
        raise ValueError(f"no component named {name!r}.{remedy} Installed: {', '.join(names)}.")
    if len(matches) > 1:
        raise ValueError(f"{name!r} is the name of several components; add --kind, one of {', '.join(matches)}")
    return resolve(kinds[matches[0]], {"name": name, **dict(_parse_field(text) for text in fields)})


def _parse_field(text: str) -> tuple[str, object]:
    import yaml

    field, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text}: write a field as field=value, such as value=0.5")
    return field, yaml.safe_load(value)
