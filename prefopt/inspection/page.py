"""The page: one HTML file that needs nothing but itself."""

from __future__ import annotations

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
    """A token as the page shows it: `style` has its shade in every layer, `below` the layers in which it is negative,
    `numbers` what is said of it by layer."""

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
        numbers = {name: response.numbers[name][place] for name in tops}
        shades = {name: min(1.0, abs(value) / tops[name]) for name, value in numbers.items()}
        tokens.append(
            _Token(
                text=visible(piece, line_break="\n"),
                style=";".join(f"--{name}:{shade:.2g}" for name, shade in shades.items() if shade >= 0.005),
                below="".join(f" below-{name}" for name, value in numbers.items() if value < 0),
                numbers={name: f"{value:.3g}" for name, value in numbers.items()},
            )
        )
    return tokens


def _ramp(layer: Layer, top: float) -> _Ramp:
    levels = (-1.0, -0.5, 0.0, 0.5, 1.0) if layer.signed else (0.0, 0.25, 0.5, 0.75, 1.0)
    return _Ramp(layer, [(level, f"{level * top:.2g}") for level in levels])
