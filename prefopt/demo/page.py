"""The table for the console, and the page: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from prefopt.comparison.statistics import Interval
from prefopt.demo.results import DemoResults, Measured, Response, WeighedPair
from prefopt.pages import render
from prefopt.pages.charts import line_chart
from prefopt.tasks.scorers.word_lists import Lexicon

__all__ = ["table", "write_page"]

_CHARTS = {
    "loss": ("Loss, with all regularisers", 0.0),
    "margin": ("Reward margin, chosen - rejected", 0.0),
    "accuracy": ("Share of pairs ranked right", 1.0),
    "sparsity": ("Share of weights w at zero", 1.0),
}
"""By curve: a title, and what the y axis reaches at least."""
_COLUMNS = ("model", "reward", "sequence KL", "accuracy", "mean w", "w = 0", "AUROC")


@dataclass(frozen=True)
class _Token:
    """A token as the page shows it: the space before its text, `shade` in percent, and what its tooltip says."""

    space: str
    text: str
    shade: int
    title: str
    sentiment: bool


@dataclass(frozen=True)
class _Span:
    """A stretch of a completion; sign is that of its word, 0 for all else."""

    text: str
    sign: int


def table(results: DemoResults) -> Table:
    """The models side by side, for the console."""
    shown = Table(title=f"{len(results.models)} models on held-out prompts and pairs", title_justify="left")
    for number, column in enumerate(_COLUMNS):
        shown.add_column(column, justify="right" if number else "left")
    for row in _rows(results):
        shown.add_row(*row)
    return shown


def write_page(results: DemoResults, lexicon: Lexicon, path: Path) -> Path:
    """Write the page and return its absolute path."""
    reference, *trained = results.models
    charts = [
        line_chart(title, {model.name: model.curves[name] for model in trained}, takes_in=(0.0, top))
        for name, (title, top) in _CHARTS.items()
    ]
    page = render(
        "prefopt.demo",
        "page.html.jinja",
        results=results,
        config=results.config,
        reference=reference,
        trained=trained,
        columns=_COLUMNS,
        rows=_rows(results),
        charts=charts,
        shaded={model.name: [_shaded(pair, model) for pair in model.pairs] for model in trained if model.pairs},
        heaviest={model.name: model.heaviest for model in trained if model.heaviest},
        completions=[
            (prompt, [(m.name, _spans(m.completions[n].text, lexicon), m.completions[n].score) for m in results.models])
            for n, prompt in enumerate(results.prompts)
        ],
        minutes=sum(results.seconds.values()) / 60,
    )
    path.write_text(page, encoding="utf-8")
    return path.absolute()


def _rows(results: DemoResults) -> list[list[str]]:
    return [
        [
            model.name,
            _interval(model.reward, "+.2f"),
            _interval(model.sequence_kl, ".2f"),
            _percent(model.accuracy),
            _number(model.weight_mean),
            _percent(model.weight_sparsity),
            _number(model.auroc),
        ]
        for model in results.models
    ]


def _interval(value: Interval | None, form: str) -> str:
    return "-" if value is None else f"{value.mean:{form}} ± {(value.high - value.low) / 2:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _shaded(pair: WeighedPair, model: Measured) -> tuple[str, list[_Token], list[_Token]]:
    """The prompt and both responses; the darkest token of all shown pairs has the largest weight among them."""
    shown = [weight for one in model.pairs for side in (one.chosen, one.rejected) for weight in side.weights]
    largest = max(shown) or 1.0
    return pair.prompt, _tokens(pair.chosen, largest), _tokens(pair.rejected, largest)


def _tokens(response: Response, largest: float) -> list[_Token]:
    v: Sequence[float | None] = response.divergence_weights or [None] * len(response.weights)
    return [
        _Token(
            space=piece[: len(piece) - len(piece.lstrip())],
            text=piece.lstrip(),
            shade=round(100 * weight / largest),
            title=f"w = {weight:.3f}" + ("" if own is None else f", v = {own:.3f}"),
            sentiment=sentiment,
        )
        for piece, weight, own, sentiment in zip(response.pieces, response.weights, v, response.sentiment, strict=True)
    ]


def _spans(text: str, lexicon: Lexicon) -> list[_Span]:
    spans, position = [], 0
    for start, end, sign in lexicon.found(text):
        if sign:
            spans += [_Span(text[position:start], 0), _Span(text[start:end], sign)]
            position = end
    return [*spans, _Span(text[position:], 0)]
