"""The results as a page. What was written by hand below the tables is kept when they are made anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.words.scoring import LEVELS
from prefopt.comparison.statistics import bootstrap

__all__ = ["differences", "estimates", "tell"]

_BY_HAND = "## What it shows"
_LEVEL = next(iter(LEVELS))

Values = Sequence[Sequence[float | None]]


def _of_pairs(seeds: Values) -> list[float | None]:
    """The mean over seeds of each pair; whether a pair has a figure depends on its words alone."""
    found = []
    for of in zip(*seeds, strict=True):
        values = [value for value in of if value is not None]
        found.append(fmean(values) if values else None)
    return found


def estimates(seeds: Values) -> dict[str, Any]:
    """The mean over seeds and pairs, its 95% bootstrap interval over pairs, the mean of each seed, how many pairs."""
    means = [value for value in _of_pairs(seeds) if value is not None]
    return bootstrap(torch.tensor(means), seed=0).model_dump() | {
        "seeds": [fmean(value for value in of if value is not None) for of in seeds],
        "pairs": len(means),
    }


def differences(seeds: Values, others: Values) -> dict[str, float]:
    """The mean difference, pair by pair, of two rows' means over seeds, and its interval."""
    both = zip(_of_pairs(seeds), _of_pairs(others), strict=True)
    return bootstrap(torch.tensor([a - b for a, b in both if a is not None and b is not None]), seed=0).model_dump()


def tell(facts: Mapping[str, Any], path: Path) -> None:
    """The page, in Markdown."""
    kept = path.read_text(encoding="utf-8").partition(_BY_HAND)[2] if path.exists() else ""
    versions = ", ".join(f"{library} {version}" for library, version in facts["versions"].items())
    counts, settings = facts["counts"], facts["settings"]
    training = ", ".join(f"{name} {value}" for name, value in settings["training"].items())
    seeds = " ".join(map(str, facts["seeds"]))
    some = next(iter(facts["reported"].values()))
    lines = [
        "# Do masks find the words that carry sentiment?",
        "",
        f"{facts['date']}. {facts['hardware']}. {versions}. Training unless a row says otherwise: {training}.",
        "",
        f"{counts['train']} training pairs, {counts['development']} development pairs and {counts['held_out']} "
        "held-out pairs of film-review sentences, a positive one chosen and a negative one rejected. The reference is "
        f"a Llama of {counts['parameters']:,} parameters with {counts['vocabulary']:,} BPE tokens, trained for "
        f"{settings['reference_steps']} steps on film reviews and the training sentences. The list of words: "
        f"{counts['lexicon']:,}, positive or negative. Of the words in held-out pairs {counts['split_words']:.0%} are "
        "of more than one token.",
        "",
        "AUROC: the chance that a word of the list has a larger number than another word of the same pair, ties "
        "counting half; 0.5 is a number that knows nothing. The number of a word is the largest, or the mean, of its "
        "tokens'; `token` ranks tokens, punctuation among them. In brackets: 95% bootstrap intervals over pairs.",
        "",
        "## Held-out pairs",
        "",
        f"Seeds {seeds}; the mean over them, and each seed's own AUROC by {_LEVEL}. Of the {counts['held_out']} pairs "
        f"{some['auroc'][_LEVEL]['pairs']} hold both a word of the list and another; the rest have no AUROC. Surprisal "
        "is -log pi_ref of the untrained reference, the shift of a policy the absolute change of the log-probability.",
        "",
    ]
    if facts["missing"]:
        lines += [f"Not carried out, and so not in the figures: {'; '.join(facts['missing'])}.", ""]
    lines += _table(
        ["", *(f"AUROC, {level}" for level in LEVELS), "seeds", "zeros", "mean weight: list, rest", "pair accuracy"],
        [["uniform", *("0.5" for _ in LEVELS), "", "0", "1, 1", ""]]
        + [
            [
                row,
                *(_interval(of["auroc"][level]) for level in LEVELS),
                ", ".join(f"{value:.3f}" for value in of["auroc"][_LEVEL]["seeds"]),
                *_masks(of),
            ]
            for row, of in facts["reported"].items()
        ],
    )
    lines += ["", f"Difference of AUROC ({_LEVEL}), pair by pair:", ""]
    others = list(some["against"])
    lines += _table(
        ["", *(f"from {other}" for other in others)],
        [[row, *(_interval(of["against"][o], "+") for o in others)] for row, of in facts["reported"].items()],
    )
    lines += ["", "## Words", ""]
    for row, of in facts["words"].items():
        lines += [
            f"{row}, seed {of['seed']}: of the {of['among']} words that come at least {of['often']} times in held-out "
            "pairs, those with the largest and the smallest mean weights. In bold: words of the list.",
            "",
        ]
        lines += _table(
            ["most", "least"],
            [[_word(*most), _word(*least)] for most, least in zip(of["heaviest"], of["lightest"], strict=True)],
        )
        lines.append("")
    lines += [
        "## Development",
        "",
        f"Seed {facts['development_seed']}, development pairs. What is reported above was chosen by this table.",
        "",
    ]
    lines += _table(
        ["", *(f"AUROC, {level}" for level in LEVELS), "zeros", "mean weight: list, rest", "pair accuracy"],
        [
            [row, *(_interval(of["auroc"][level]) for level in LEVELS), *_masks(of)]
            for row, of in facts["developed"].items()
        ],
    )
    lines += ["", "## Rows", ""]
    for table in ("reported", "development"):
        lines += [f"- {row}: `{json.dumps(fields)}`" for row, fields in settings[table].items()]
    lines += ["", _BY_HAND]
    path.write_text("\n".join(lines) + (kept or "\n"), encoding="utf-8")


def _masks(of: Mapping[str, Any]) -> list[str]:
    if "zeros" not in of:
        return ["", "", ""]
    weights = of["mean_weight"]
    return [f"{of['zeros']:.3f}", f"{weights['sentiment']:.3g}, {weights['other']:.3g}", f"{of['accuracy']:.3f}"]


def _word(text: str, weight: float, count: int, listed: bool) -> str:
    return f"{f'**{text}**' if listed else text} {weight:.2f} ({count})"


def _interval(of: Mapping[str, Any], sign: str = "") -> str:
    return f"{of['mean']:{sign}.3f} [{of['low']:{sign}.3f}, {of['high']:{sign}.3f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
