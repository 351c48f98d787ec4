"""The page: one HTML file that needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefopt.inspection.layers import Layer
from prefopt.inspection.results import Inspection
from prefopt.inspection.text import visible
from prefopt.inspection.weigh import Response
from prefopt.pages import render

__all__ = ["write_page"]


@dataclass(frozen=True)
class _Token:
    """A token as the page shows it: the space before its text, which is not shaded, lest shades hang over the ends of
    lines; in `style` its shade in every layer, in `below` those in which it is negative, and its number in each."""

    space: str
    text: str
    style: str
    below: str
    numbers: dict[str, str]


@dataclass(frozen=True)
class _Ramp:
    """What the shades of a layer mean: (shade, number), from the smallest on."""

    layer: Layer
    steps: list[tuple[float, str]]


def write_page(inspection: Inspection, path: Path, *, minimum: int) -> None:
    """Write the page; `minimum` is the one of the rankings."""
    tops = {layer.name: inspection.scale(layer, inspection.shown) for layer in inspection.offered}
    pairs = [
        (pair, [(side, response, _tokens(response, tops)) for side, response in pair.sides])
        for pair in inspection.shown
    ]
    page = render(
        "prefopt.inspection",
        "page.html.jinja",
        inspection=inspection,
        pairs=pairs,
        ramps=[_ramp(layer, tops[layer.name]) for layer in inspection.offered],
        minimum=minimum,
        visible=visible,
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _tokens(response: Response, tops: Mapping[str, float]) -> list[_Token]:
    tokens = []
    for place, piece in enumerate(response.pieces):
        spaced = piece.startswith(" ") and bool(piece.strip())
        numbers = {name: response.numbers[name][place] for name in tops}
        shades = {name: min(1.0, abs(value) / tops[name]) for name, value in numbers.items()}
        tokens.append(
            _Token(
                space=" " * spaced,
                text=visible(piece[spaced:], line_break="\n"),
                style=";".join(f"--{name}:{shade:.2g}" for name, shade in shades.items() if shade >= 0.005),
                below="".join(f" below-{name}" for name, value in numbers.items() if value < 0),
                numbers={name: _number(value, tops[name]) for name, value in numbers.items()},
            )
        )
    return tokens


def _number(value: float, top: float) -> str:
    """With as many decimals as show the darkest shade's number to four digits; a zero without any is exact."""
    return f"{value:.{max(0, 3 - math.floor(math.log10(top)))}f}" if value else "0"


def _ramp(layer: Layer, top: float) -> _Ramp:
    levels = (-1.0, -0.5, 0.0, 0.5, 1.0) if layer.signed else (0.0, 0.25, 0.5, 0.75, 1.0)
    return _Ramp(layer, [(level, f"{level * top:.2g}") for level in levels])
