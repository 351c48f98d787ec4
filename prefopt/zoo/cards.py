"""Formula cards: what a row of the zoo is, in full, read off the row itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import final

from prefopt.component import Component, Named
from prefopt.objective_config import ObjectiveConfig
from prefopt.signals import SIGNALS
from prefopt.zoo import ZOO, build

_DIFFERS = "Differs: "


@final
@dataclass(frozen=True)
class Card:
    """A row in full. `slots` are (kind, name, equation), of components within others too; `differs` is empty where no
    difference is known, `data` where a row of the data needs no more than the pair."""

    name: str
    equation: str
    about: tuple[str, ...]
    differs: str
    defaults: str
    slots: tuple[tuple[str, str, str], ...]
    reduction: str
    reference: str
    data: str
    config: ObjectiveConfig


@cache
def card(name: str) -> Card:
    """The card of a named objective. Raises ValueError with the nearest right name where there is none so called."""
    config = build(name)
    paragraphs = [" ".join(text.split()) for text in (inspect.getdoc(ZOO[name]) or "").split("\n\n")]
    parameters = inspect.signature(ZOO[name]).parameters.values()
    return Card(
        name=name,
        equation=paragraphs[0],
        about=tuple(text for text in paragraphs[1:] if not text.startswith(_DIFFERS)),
        differs=" ".join(text.removeprefix(_DIFFERS) for text in paragraphs if text.startswith(_DIFFERS)),
        defaults=", ".join(f"{parameter.name}={parameter.default}" for parameter in parameters),
        slots=tuple(
            (part.kind, part.name, equation_of(type(part))) for top in config.components for part in _with_held(top)
        ),
        reduction=_reduction(config),
        reference=_reference(config),
        data=", ".join(field for column in config.columns for field in column.fields),
        config=config,
    )


def markdown(name: str) -> str:
    """The card as a section of a page."""
    row = card(name)
    lines = [
        f"## {name}",
        f"```formula\n{row.equation}\n```",
        *row.about,
        f"- **Defaults**: {row.defaults}",
        f"- **Reduction**: {row.reduction}",
        f"- **Reference**: {row.reference}",
        *([f"- **Fields of a row, besides the pair**: {row.data}"] if row.data else []),
        *([f"- **Differs**: {row.differs}"] if row.differs else []),
        "\n".join(["| slot | component | equation |", "|---|---|---|"] + [_table_row(slot) for slot in row.slots]),
    ]
    return "\n\n".join(lines) + "\n"


def equation_of(component: type[Named]) -> str:
    """The first paragraph of a docstring, on one line: the equation of a component, the purpose of anything else."""
    return " ".join((inspect.getdoc(component) or "").partition("\n\n")[0].split())


def _with_held(component: Component) -> Iterator[Component]:
    """The component, and those that its fields hold, such as the weighting that `scaled` scales."""
    yield component
    for value in vars(component).values():
        for held in value if isinstance(value, tuple) else (value,):
            if isinstance(held, Component):
                yield from _with_held(held)


def _table_row(slot: tuple[str, str, str]) -> str:
    kind, name, equation = (part.replace("|", "\\|") for part in slot)
    return f"| {kind} | `{name}` | {equation} |"


def _reduction(config: ObjectiveConfig) -> str:
    over = "the pairs of a step, which it compares with each other" if config.couples_pairs else "pairs"
    if config.units is None:
        return f"{equation_of(type(config.shaping))} Then a mean over {over}."
    units = config.units
    weighted = f", weighted by {' and '.join(units.weight_columns)}," if units.weight_columns else ""
    alone = {"left_out": "units without a partner left out", "zero": "0 for the partner that a unit lacks"}
    return (
        f"For a unit in place of a response: {equation_of(type(config.shaping))} Then a {units.reduction}{weighted} "
        f"over the units of a pair, {alone[units.unpaired]}. Then a mean over {over}."
    )


def _reference(config: ObjectiveConfig) -> str:
    if config.reference_free:
        return "none is run."
    reads = [
        "its log-probabilities of response tokens",
        *(spec.card for signal, spec in sorted(SIGNALS.items()) if spec.card and signal in config.requires),
    ]
    return "; ".join(reads) + "."
