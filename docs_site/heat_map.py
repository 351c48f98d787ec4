"""The demo's heat map: a held-out pair whose tokens are shaded by the weights that SparsePO learned.

`python -m docs_site.heat_map runs/demo` takes the first pair from a demo's `runs.jsonl`, unpicked, and writes
`docs/figures/heat-map.json` and the README's picture, `docs/figures/heat-map.svg`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
_WIDTH, _LINE, _CHARACTER, _LEFT = 680, 26, 8.4, 12
_STRONGEST = 0.6
"""Opacity of the largest weight: words on it keep a contrast above 4.5."""
_STYLE = """<style>
text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#1f2328}
.side{font-weight:bold}.shade{fill:#e8890c}.mark{stroke:#1f2328}.page{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.mark{stroke:#e6edf3}.page{fill:#0d1117}}
</style>"""


def taken_from(folder: Path) -> dict[str, Any]:
    """The first pair of the demo's last run, which is SparsePO's: prompt, and of either response tokens, weights and
    the words of sentiment, which the mask is not told."""
    record = json.loads((folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    pair = record["heat_maps"][0]
    responses = {
        side: {
            "tokens": pair[side]["tokens"],
            "weights": [round(weight, 2) for weight in pair[side]["w"]],
            "marked": [bool(marked) for marked in pair[side]["marked"]],
        }
        for side in ("chosen", "rejected")
    }
    return {"objective": record["name"], "seed": record["seed"], "prompt": pair["prompt"], **responses}


def shaded(figure: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, float, bool, float]]]]:
    """Each response: its side, and of its tokens the text, the opacity, whether it is marked, and the weight."""
    largest = max(weight for side in ("chosen", "rejected") for weight in figure[side]["weights"])
    for side in ("chosen", "rejected"):
        columns = (figure[side][name] for name in ("tokens", "weights", "marked"))
        rows = zip(*columns, strict=True)
        yield side, [(token, _STRONGEST * weight / largest, marked, weight) for token, weight, marked in rows]


def html(figure: Mapping[str, Any]) -> str:
    """The pair as HTML, whose lines break where the window ends."""
    blocks = []
    for side, tokens in shaded(figure):
        spans = "".join(
            f"{' ' * text.startswith(' ')}"
            f'<span class="token{" marked" if marked else ""}" style="--shade:{opacity:.3f}" title="weight {weight:g}">'
            f"{escape(text.strip())}</span>"
            for text, opacity, marked, weight in tokens
        )
        blocks.append(f"<p><b>{side}</b> <span>{escape(figure['prompt'])}</span>{spans}</p>")
    return f'<div class="heat-map" role="group" aria-label="{_described(figure)}">{"".join(blocks)}</div>'


def svg(figure: Mapping[str, Any]) -> str:
    """The pair as a picture that stands alone, for light and dark pages."""
    lines: list[str] = []
    y = 8
    for side, tokens in shaded(figure):
        lines.append(f'<text class="side" x="{_LEFT}" y="{y + 18}">{side}</text>')
        y += _LINE
        x = float(_LEFT)
        words = [(word, 0.0, False) for word in figure["prompt"].split()] + [row[:3] for row in tokens]
        for text, opacity, marked in words:
            word = text.strip()
            width = _CHARACTER * len(word)
            x += _CHARACTER if x > _LEFT and word not in ".," else 0
            if x + width > _WIDTH - _LEFT:
                x, y = float(_LEFT), y + _LINE
            if opacity:
                lines.append(
                    f'<rect class="shade" x="{x - 3:.1f}" y="{y}" width="{width + 6:.1f}" height="{_LINE - 4}" rx="3" '
                    f'fill-opacity="{opacity:.3f}"/>'
                )
            lines.append(f'<text x="{x:.1f}" y="{y + 16}" textLength="{width:.1f}">{escape(word)}</text>')
            if marked:
                lines.append(f'<path class="mark" d="M{x:.1f} {y + 19.5}h{width:.1f}"/>')
            x += width
        y += _LINE + 8
    size = f'viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{_described(figure)}">'
    return "\n".join([start, _STYLE, f'<rect class="page" width="{_WIDTH}" height="{y}"/>', *lines, "</svg>\n"])


def _described(figure: Mapping[str, Any]) -> str:
    return (
        "A held-out preference pair: tokens are shaded by the weight that the learned mask gives them, and words of "
        f"sentiment, which it was not told, are underlined ({figure['objective']}, seed {figure['seed']})"
    )


def stored() -> dict[str, Any]:
    """The figure's numbers as they are kept."""
    numbers: dict[str, Any] = json.loads((FIGURES / "heat-map.json").read_text(encoding="utf-8"))
    return numbers


if __name__ == "__main__":
    FIGURES.mkdir(exist_ok=True)
    text = json.dumps(taken_from(Path(sys.argv[1])))
    (FIGURES / "heat-map.json").write_text(text + "\n", encoding="utf-8")
    (FIGURES / "heat-map.svg").write_text(svg(json.loads(text)), encoding="utf-8")
