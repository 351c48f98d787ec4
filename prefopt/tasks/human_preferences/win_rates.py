"""How often a judge prefers a policy's answers to other answers, and how far it agrees with the held-out data."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from prefopt.tasks.base import HELD_OUT, HeldOutPrompt, Metric, read_jsonl
from prefopt.tasks.generation.generate import mean_by_prompt
from prefopt.tasks.judges import Judge
from prefopt.tasks.preference_data.sources import as_text

__all__ = ["AGREEMENT", "Against", "agreement", "read_or_make", "truncate", "win_rate_metric", "win_rates"]

Against = Literal["chosen", "reference"]
"""The answers that a policy's are compared with: those that the held-out data prefers, or the reference's samples."""

AGREEMENT = Metric(
    "judge_agreement",
    "neither",
    "share of held-out pairs of which the judge prefers the chosen response: what its win rates are worth",
)


def win_rate_metric(against: Against) -> Metric:
    """The metric that `win_rates` gives values of."""
    chosen, samples = "the preferred responses of the held-out data", "the reference's own samples"
    theirs = chosen if against == "chosen" else samples
    return Metric("win_rate", "higher", f"share of samples that the judge prefers to {theirs}; a tie is half")


def win_rates(
    judge: Judge, prompts: Sequence[HeldOutPrompt], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]
) -> list[float]:
    """For each prompt the share of its samples that win, the first over their first and so on; a tie is half."""
    rates = judge.win_rates(
        [prompt.text for prompt, texts in zip(prompts, ours, strict=True) for _ in texts],
        [text for texts in ours for text in texts],
        [text for texts in theirs for text in texts],
    )
    return mean_by_prompt(rates, ours)


def agreement(judge: Judge, folder: Path) -> dict[str, float]:
    """By held-out pair of the material in the folder: 1 where the judge prefers the chosen response, 0.5 for a tie.

    The verdicts are kept in the folder. Raises what `Judge.check` raises.
    """

    def verdicts() -> list[float]:
        judge.check()
        rows = read_jsonl(folder / HELD_OUT)
        sides = ([as_text(row[field]) for row in rows] for field in ("prompt", "chosen", "rejected"))
        return judge.win_rates(*sides)

    return {f"pair {index}": verdict for index, verdict in enumerate(read_or_make(folder / "judge.json", verdicts))}


def read_or_make(path: Path, make: Callable[[], object]) -> Any:
    """The content of a JSON file, which is first written from `make` where it does not exist."""
    if not path.exists():
        content = make()
        # Written beside and then moved: runs that share the material may read it at the same time.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(file.name, path)
    return json.loads(path.read_text(encoding="utf-8"))


def truncate(text: str, stops: Sequence[str]) -> str:
    """The text up to where the first of the stops begins, without space at its end."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))].rstrip()
