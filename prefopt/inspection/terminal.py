"""Tokens shaded on a terminal, and in plain text where there is no colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prefopt.inspection.layers import Layer
from prefopt.inspection.results import Inspection
from prefopt.inspection.tally import Ranking, TokenMean
from prefopt.inspection.text import visible
from prefopt.inspection.weigh import Response, WeighedPair

__all__ = ["pair_views", "ranking_table", "summary_table"]

_PAPER, _INK, _ON_DARK = (250, 250, 248), "#1d2025", "#ffffff"
_UP, _DOWN = (20, 80, 190), (180, 70, 0)
_LEVELS = 9


def summary_table(inspection: Inspection) -> Group:
    """Every layer over all response tokens."""
    title = f"{inspection.pairs:,} pairs, {inspection.tokens:,} response tokens, {inspection.accuracy:.1%} ranked right"
    table = Table("layer", "mean", "smallest", "largest", "at 0", "what it is")
    for layer in inspection.layers:
        of = inspection.summaries[layer.name]
        numbers = (f"{of.mean:.4g}", f"{of.smallest:.4g}", f"{of.largest:.4g}", f"{of.zeros:.1%}")
        meaning = layer.meaning if layer.repeats is None else f"{layer.meaning}; the same as {layer.repeats}"
        table.add_row(Text(layer.name), *numbers, Text(meaning))
    return Group(Text(title), table)


def pair_views(inspection: Inspection, layer: Layer, *, number: int, coloured: bool) -> Iterator[RenderableType]:
    """The first pairs, and before them what the shades or the levels mean."""
    pairs = inspection.shown[:number]
    if not pairs:
        return
    top = inspection.scale(layer, pairs)
    yield _legend(layer, top, coloured)
    for pair in pairs:
        yield _pair(pair, layer, top, coloured)


def _legend(layer: Layer, top: float, coloured: bool) -> Text:
    text = Text(f"{layer.label}: ")
    if coloured:
        levels = (-1.0, -0.5, 0.0, 0.5, 1.0) if layer.signed else (0.0, 0.25, 0.5, 0.75, 1.0)
        for level in levels:
            text.append(f" {level * top:.3g} ", style=_style(level))
        return text
    sign = "+ or - and " if layer.signed else ""
    return text.append(f"[{sign}a level from 0 to {_LEVELS}, which is {top:.3g} or more] after each token")


def _pair(pair: WeighedPair, layer: Layer, top: float, coloured: bool) -> Group:
    shade = _shaded if coloured else _levelled
    lines: list[RenderableType] = [
        Text(),
        Text.assemble((f"pair {pair.row}", "bold"), f"  {visible(pair.where)}"),
        Padding(Text(f"prompt: {visible(pair.prompt)}"), (0, 0, 0, 2)),
    ]
    for side, response in pair.sides:
        cut = "  (cut)" if response.truncated else ""
        head = f"{side}, reward {response.reward:+.4g}{cut}: "
        lines.append(Padding(Text(head).append_text(shade(response, layer, top)), (0, 0, 0, 2)))
    return Group(*lines)


def _shaded(response: Response, layer: Layer, top: float) -> Text:
    text = Text()
    for piece, value in zip(response.pieces, response.numbers[layer.name], strict=True):
        text.append(visible(piece), style=_style(value / top))
    return text


def _levelled(response: Response, layer: Layer, top: float) -> Text:
    text = Text()
    for piece, value in zip(response.pieces, response.numbers[layer.name], strict=True):
        sign = ("-" if value < 0 else "+") if layer.signed else ""
        text.append(f"{visible(piece)}[{sign}{round(_LEVELS * min(1.0, abs(value) / top))}]")
    return text


def _style(level: float) -> str:
    """Ink on paper, whatever the terminal's own colours are, and the paper tinted."""
    share, tint = min(1.0, abs(level)), _DOWN if level < 0 else _UP
    red, green, blue = (round(paper + (full - paper) * share) for paper, full in zip(_PAPER, tint, strict=True))
    return f"{_ON_DARK if share > 0.55 else _INK} on rgb({red},{green},{blue})"


def ranking_table(ranking: Ranking, layer: Layer, *, minimum: int) -> Group:
    """The tokens at either end of a layer, side by side."""
    title = f"mean {layer.label} of the {ranking.among:,} tokens that occur at least {minimum} times"
    table = Table()
    for end in ("most", "least"):
        table.add_column(end)
        table.add_column("mean", justify="right")
        table.add_column("times", justify="right")
    for place in range(len(ranking.heaviest)):
        table.add_row(*_cells(ranking.heaviest, place), *_cells(ranking.lightest, place))
    return Group(Text(title), table)


def _cells(tokens: Sequence[TokenMean], place: int) -> list[str | Text]:
    if place >= len(tokens):
        return ["", "", ""]
    token = tokens[place]
    return [Text(repr(token.text)), f"{token.mean:.4g}", f"{token.count:,}"]
