"""prefopt zoo, prefopt components"""

from __future__ import annotations

import inspect
from typing import Annotated

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from prefopt.cli import completion
from prefopt.cli.console import component_kinds, console, exit_on, kind_name, reject_unknown_kind


def zoo(
    name: Annotated[
        str | None, typer.Argument(help="One objective, in detail.", autocompletion=completion.objectives)
    ] = None,
) -> None:
    """The named objectives; with a NAME, its equation, source, slots and YAML."""
    from prefopt.zoo import ZOO

    if name is None:
        table = Table("name", "equation", box=None, padding=(0, 2, 0, 0))
        for row_name, function in ZOO.items():
            table.add_row(f"[bold]{row_name}", escape(inspect.getdoc(function).partition("\n")[0]))  # type: ignore[union-attr]
        console.print(table)
        console.print(
            "\nr: log-ratio of a response token; k: KL(reference || policy) there; c: chosen, j: rejected; sums over "
            "tokens."
        )
        return
    import yaml
    from rich.syntax import Syntax

    from prefopt.registry import PluginError
    from prefopt.zoo.cards import card

    with exit_on(ValueError, PluginError):
        row = card(name)
    console.print(f"[bold]{name}[/]({escape(row.defaults)})\n")
    for paragraph in (row.equation, *row.about):
        console.print(Padding(escape(paragraph), (0, 0, 1, 2)))
    facts = {
        "reduction": row.reduction,
        "reference": row.reference,
        "data": f"also the fields {row.data}" if row.data else "",
        "differs": row.differs,
    }
    for fact, text in facts.items():
        if text:
            console.print(f"[bold]{fact:>9}[/]  {escape(text)}")
    table = Table("slot", "component", "equation", box=None, padding=(1, 2, 0, 0))
    for kind, component, equation in row.slots:
        table.add_row(kind, component, escape(equation))
    console.print(table)
    console.print("\nas YAML, for `objective` in a run file:")
    console.print(Syntax(yaml.safe_dump(row.config.model_dump(mode="json"), sort_keys=False), "yaml"))


def components(
    kind: Annotated[
        str | None, typer.Argument(help="One kind, such as token-weighting.", autocompletion=completion.kinds)
    ] = None,
) -> None:
    """The installed components, tasks and scorers: kind, name, distribution, equation or purpose."""
    from prefopt.component import Named
    from prefopt.registry import Owner, PluginError, excluded_plugins, installed
    from prefopt.zoo.cards import equation_of

    kinds = list(component_kinds())
    with exit_on(ValueError, PluginError):
        entries: list[tuple[type[Named], Owner]] = list(installed())
        if kind not in kinds:  # tasks and scorers cost the import of what trains models
            from prefopt.tasks import Scorer, Task
            from prefopt.tasks.registry import TASKS
            from prefopt.tasks.scorers.registry import SCORERS

            kinds += [Task.kind, Scorer.kind]
            entries += [entry for _, entry in sorted(TASKS.installed.items())]
            entries += [entry for _, entry in sorted(SCORERS.installed.items())]
        if kind is not None:
            reject_unknown_kind(kind, kinds)
    table = Table("kind", "name", "distribution", "version", "equation", box=None, padding=(0, 2, 0, 0))
    for component, owner in entries:
        if kind in (None, kind_name(component)):
            name = component.model_fields["name"].default
            row = (kind_name(component), name, owner.distribution, owner.version)
            table.add_row(*row, escape(equation_of(component)))
    console.print(table)
    if excluded := excluded_plugins():
        console.print(f"\nExcluded plugins: {escape(', '.join(excluded))}", soft_wrap=True)
