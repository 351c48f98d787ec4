"""The results as a page. What was written by hand below the tables is kept when page and picture are made anew:

python -m benchmarks.speed.report benchmarks/results/DATE-speed.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from benchmarks.markdown import table
from benchmarks.speed.ratios import highest, middle

__all__ = ["tell"]

_BY_HAND = "## What it shows"
_BYTES = {"float32": 4, "bfloat16": 2}


def tell(facts: dict[str, Any], path: Path) -> None:
    """The page, in Markdown."""
    by_hand = path.read_text(encoding="utf-8").partition(_BY_HAND)[2] if path.exists() else ""
    model, versions = facts["model"], ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    dtype = model.get("dtype", "float32")  # before there was a choice
    lines = [
        "# Speed and memory of a training step",
        "",
        f"{facts['date']}. {facts['hardware']}. {versions}. `{facts['command']}`.",
        "",
        f"A Llama with random weights in {dtype}, tied embeddings: hidden size {model['hidden']}, {model['layers']} "
        f"layers, {model['parameters'] / 1e6:.1f}M parameters. Random token ids, exact lengths. What a step is, and "
        "how it is measured, is in `benchmarks/speed/README.md`. Times are medians of the rounds; memory is the "
        "highest of all steps, in MiB added to the state with models and batches loaded, gradients included "
        f"({model['parameters'] * _BYTES[dtype] / 2**20:.0f} MiB); 'first' is that of the very first step.",
        "",
        "## Ratios",
        "",
        "Time: wall seconds, then CPU seconds; median over rounds of the ratio within a round, quartiles in brackets. "
        "An aim is met where both medians meet it.",
        "",
    ]
    lines += table(
        ["", "shape", "wall time", "CPU time", "aim", "added memory", "aim"],
        [
            [
                f"{row['contender']} / {row['against']}",
                row["shape"],
                _quartiles(row["time"]),
                _quartiles(row["cpu_time"]),
                _aim(max(row["time"][1], row["cpu_time"][1]), row["time_target"]),
                f"{row['memory']:.2f}",
                _aim(row["memory"], row["memory_target"]),
            ]
            for row in facts["ratios"]
        ],
    )
    for shape, result in facts["shapes"].items():
        setting = result["setting"]
        lines += ["", f"## {shape}", ""]
        lines += [
            f"{setting['pairs']} pairs, prompts of {setting['prompt']} tokens, responses of {setting['response']}, "
            f"vocabulary {setting['vocabulary']:,}; {_rounds(result)} rounds.",
            "",
        ]
        lines += table(
            ["", "wall s", "CPU s", "added MiB", "first", "peak MiB", "loaded MiB"],
            [_row(name, run) for name, run in result["runs"].items()],
        )
        lines += _left_out(result)
    lines += ["", "## The same numbers", ""]
    lines += [
        "Relative differences on the first batch: of the loss, of all gradients (norm of the difference), and of the "
        "parameter that differs most.",
        "",
    ]
    lines += table(
        ["", "shape", "loss", "gradients", "worst parameter", "agree"],
        [
            [
                f"{agreement['one']}, {agreement['other']}",
                shape,
                *(f"{agreement[name]:.1e}" for name in _DIFFERENCES),
                "yes" if agreement["agree"] else "NO",
            ]
            for shape, result in facts["shapes"].items()
            for agreement in result["agreements"]
        ],
    )
    for axis, results in facts["growth"].items():
        lines += ["", f"## Growth with the {axis}", "", _growth_caption(results), ""]
        names = list(dict.fromkeys(name for result in results for name in (*result["runs"], *result["left_out"])))
        lines += table(
            [axis, *(f"{name}: wall s, MiB" for name in names)],
            [[f"{result['at']:,}", *(_cell(result, name) for name in names)] for result in results],
        )
    lines += ["", f"![time and memory]({path.with_suffix('.png').name})", "", "## The contenders", ""]
    lines += [f"- {name}: {words}." for name, words in facts["contenders"].items()]
    path.write_text("\n".join([*lines, "", _BY_HAND]) + (by_hand or "\n"), encoding="utf-8")


_DIFFERENCES = ("loss_difference", "gradient_difference", "worst_gradient_difference")


def _row(name: str, run: dict[str, Any]) -> list[str]:
    return [
        name,
        f"{middle(run, 'seconds'):.2f}",
        f"{middle(run, 'cpu_seconds'):.2f}",
        f"{highest(run, 'added_mib'):,.0f}",
        f"{run['first']['added_mib']:,.0f}",
        f"{highest(run, 'peak_mib'):,.0f}",
        f"{run['ready_mib']:,.0f}",
    ]


def _rounds(result: dict[str, Any]) -> int:
    return max((len(run["steps"]) for run in result["runs"].values()), default=0)


def _left_out(result: dict[str, Any]) -> list[str]:
    return [line for name, reason in result["left_out"].items() for line in ("", f"Not run: {name}, {reason}.")]


def _growth_caption(results: Sequence[dict[str, Any]]) -> str:
    setting = results[0]["setting"]
    return (
        f"Batches of {setting['pairs']} pair(s), prompts of {setting['prompt']} tokens; median of "
        f"{_rounds(results[0])} round(s). The first row: responses of {setting['response']}, vocabulary "
        f"{setting['vocabulary']:,}."
    )


def _cell(result: dict[str, Any], name: str) -> str:
    if name in result["left_out"]:
        return str(result["left_out"][name])
    run = result["runs"][name]
    return f"{middle(run, 'seconds'):.2f}, {highest(run, 'added_mib'):,.0f}"


def _quartiles(values: Sequence[float]) -> str:
    low, mid, high = values
    return f"{mid:.2f} [{low:.2f}, {high:.2f}]"


def _aim(value: float, target: float | None) -> str:
    return "-" if target is None else f"{target:.2f}: {'met' if value <= target else 'not met'}"


def again(results: Path) -> None:
    """Make the page and the picture anew from the JSON file."""
    from benchmarks.speed.plot import draw  # here, because a page needs no matplotlib

    facts = json.loads(results.read_text(encoding="utf-8"))
    draw(facts, results.with_suffix(".png"))
    tell(facts, results.with_suffix(".md"))


if __name__ == "__main__":
    typer.run(again)
