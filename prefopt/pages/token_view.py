"""The token view: preference pairs whose response tokens are shaded by what an objective makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True)
class TokenLayer:
    """A quantity of response tokens to shade them by.

    name is its key in `ResponseTokens.values`, label and meaning are for people; `signed` if it can be negative;
    `repeats` names the layer whose values it always has, if there is one.
    """

    name: str
    label: str
    meaning: str
    signed: bool = False
    repeats: str | None = None


@final
@dataclass(frozen=True)
class ResponseTokens:
    """A response of T tokens.

    tokens     the text that each adds, its leading space included
    values     layer -> T values; None or absent if the objective lacks the layer
    ids        T token ids
    marked     T flags: the tokens that the task knows to matter, which are underlined
    reward     the response's reward, as trained
    truncated  whether the response was cut at its end
    """

    tokens: Sequence[str]
    values: Mapping[str, Sequence[float] | None]
    ids: Sequence[int] | None = None
    marked: Sequence[bool] | None = None
    reward: float | None = None
    truncated: bool = False


@final
@dataclass(frozen=True)
class PairTokens:
    """A preference pair; `row` is its index in the data set, `where` its file and line, `title` the objective's name.

    The menus of a page, where it has them, show the pairs of one `row` and one `setting` at a time.
    """

    prompt: str
    chosen: ResponseTokens
    rejected: ResponseTokens
    row: int = 0
    where: str = ""
    title: str = ""
    setting: int = 0

    @property
    def responses(self) -> dict[str, ResponseTokens]:
        return {"chosen": self.chosen, "rejected": self.rejected}


def token_view(layers: Sequence[TokenLayer], pairs: Sequence[PairTokens]) -> dict[str, Any]:
    """What token_view.html.jinja shows, ready for JSON: values with four digits, null if not finite."""
    names = [layer.name for layer in layers]
    return {
        "layers": [{"name": layer.name, "label": layer.label, "signed": layer.signed} for layer in layers],
        "pairs": [
            {
                **{name: getattr(pair, name) for name in ("prompt", "row", "where", "title", "setting")},
                **{side: _response(response, names) for side, response in pair.responses.items()},
            }
            for pair in pairs
        ],
    }


def _response(response: ResponseTokens, layers: Sequence[str]) -> dict[str, Any]:
    note = "" if response.reward is None else f", reward {response.reward:+.4g}"
    values = {name: response.values.get(name) for name in layers}
    return {
        "tokens": [visible(token, line_break="\n") for token in response.tokens],
        "ids": response.ids,
        "marked": response.marked,
        "note": note + ", cut at its end" * response.truncated,
        "values": {name: numbers and [_rounded(number) for number in numbers] for name, numbers in values.items()},
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def visible(text: str, *, line_break: str = "") -> str:
    """The text with signs for line breaks (followed by `line_break`) and tabs, escapes for other characters that do not
    print, and a sign for no text at all, which is what a token adds that is half a character."""
    signs = text.replace("\r", "").replace("\n", f"⏎{line_break}").replace("\t", "⇥")
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in signs) or "▫"
