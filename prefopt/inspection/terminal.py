"""Tokens shaded on a terminal, and in plain text where there is no colour."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prefopt.inspection.results import Inspection
from prefopt.inspection.statistics import Ranking, TokenMean
from prefopt.pages.token_view import PairTokens, ResponseTokens, TokenLayer, visible

_PAPER, _INK, _ON_DARK = (250, 250, 248), "#1d2025", "#ffffff"
_POSITIVE, _NEGATIVE = (20, 80, 190), (180, 70, 0)
_LEVELS = 9


def summary_table(inspection: Inspection) -> Group:
    """Every layer over all response tokens, and what is wrong with a learned mask."""
    title = f"{inspection.pairs:,} pairs, {inspection.tokens:,} response tokens, {inspection.accuracy:.1%} ranked right"
    table = Table("layer", "mean", "smallest", "largest", "at 0", "what it is")
    for layer in inspection.layers:
        summary = inspection.summaries[layer.name]
        values = [f"{value:.4g}" for value in (summary.mean, summary.smallest, summary.largest)]
        meaning = layer.meaning if layer.repeats is None else f"{layer.meaning}; the same as {layer.repeats}"
        table.add_row(Text(layer.name), *values, f"{summary.zeros:.1%}", Text(meaning))
    return Group(
        Text(title), table, *(Text(f"Warning: {fault}.", style="yellow") for fault in inspection.mask_faults.values())
    )


def pair_views(inspection: Inspection, layer: TokenLayer, *, number: int, coloured: bool) -> Iterator[RenderableType]:
    """The first pairs, after a legend of the shades or the levels."""
    pairs = inspection.shown[:number]
    if not pairs:
        return
    scale = inspection.scale(layer, pairs)
    yield _legend(layer, scale, coloured)
    for pair in pairs:
        yield _pair(pair, layer, scale, coloured)


def _legend(layer: TokenLayer, scale: float, coloured: bool) -> Text:
    text = Text(f"{layer.label}: ")
    if coloured:
        for level in (-1.0, -0.5, 0.0, 0.5, 1.0) if layer.signed else (0.0, 0.25, 0.5, 0.75, 1.0):
            text.append(f" {level * scale:.3g} ", style=_style(level))
        return text
    sign = "+ or - and " if layer.signed else ""
    return text.append(f"[{sign}a level from 0 to {_LEVELS}, which is {scale:.3g} or more] after each token")


def _pair(pair: PairTokens, layer: TokenLayer, scale: float, coloured: bool) -> Group:
    lines: list[RenderableType] = [
        Text(),
        Text.assemble((f"pair {pair.row}", "bold"), f"  {visible(pair.where)}"),
        Padding(Text(f"prompt: {visible(pair.prompt)}"), (0, 0, 0, 2)),
    ]
    for side, response in pair.responses.items():
        text = Text(f"{side}, reward {response.reward:+.4g}{'  (cut)' if response.truncated else ''}: ")
        lines.append(Padding(text.append_text(_tokens(response, layer, scale, coloured)), (0, 0, 0, 2)))
    return Group(*lines)


def _tokens(response: ResponseTokens, layer: TokenLayer, scale: float, coloured: bool) -> Text:
    text = Text()
    for token, value in zip(response.tokens, response.values[layer.name] or (), strict=True):
        if coloured:
            text.append(visible(token), style=_style(value / scale))
        else:
            sign = ("-" if value < 0 else "+") if layer.signed else ""
            text.append(f"{visible(token)}[{sign}{round(_LEVELS * min(1.0, abs(value) / scale))}]")
    return text


def _style(level: float) -> str:
    """Ink on tinted paper, whatever the terminal's colours are."""
    share, tint = min(1.0, abs(level)), _NEGATIVE if level < 0 else _POSITIVE
    red, green, blue = (round(paper + (full - paper) * share) for paper, full in zip(_PAPER, tint, strict=True))
    return f"{_ON_DARK if share > 0.55 else _INK} on rgb({red},{green},{blue})"


def ranking_table(ranking: Ranking, layer: TokenLayer, *, minimum: int) -> Group:
    """The tokens at either end of a layer, side by side."""
    title = f"mean {layer.label} of the {ranking.among:,} tokens that occur at least {minimum} times"
    table = Table()
    for end in ("most", "least"):
        table.add_column(end)
        table.add_column("mean", justify="right")
        table.add_column("times", justify="right")
    for heavy, light in zip_longest(ranking.heaviest, ranking.lightest):
        table.add_row(*_cells(heavy), *_cells(light))
    return Group(Text(title), table)


def _cells(token: TokenMean | None) -> list[str | Text]:
    return ["", "", ""] if token is None else [Text(repr(token.text)), f"{token.mean:.4g}", f"{token.count:,}"]
