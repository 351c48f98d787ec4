"""How often a judge prefers a policy's answers to other answers, and how far it agrees with the held-out data."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from prefopt.tasks.base import HELD_OUT, HeldOutPrompt, Material, Metric, read_jsonl
from prefopt.tasks.generation.generate import mean_by_prompt
from prefopt.tasks.judges import Judge
from prefopt.tasks.preference_data.sources import as_text

__all__ = [
    "AGREEMENT",
    "Against",
    "judge_held_out",
    "read_agreement",
    "read_or_make",
    "truncate",
    "win_rate_metric",
    "win_rates",
]

Against = Literal["chosen", "reference"]
"""The answers that a policy's are compared with: those that the held-out data prefers, or the reference's samples."""

_OPPONENTS = {"chosen": "the preferred responses of the held-out data", "reference": "the reference's own samples"}

AGREEMENT = Metric(
    "judge_agreement",
    "neither",
    "share of held-out pairs of which the judge prefers the chosen response: what its win rates are worth",
)

_VERDICTS = "judge.json"


def win_rate_metric(against: Against) -> Metric:
    """The metric that `win_rates` gives values of."""
    what = f"share of samples that the judge prefers to {_OPPONENTS[against]}; a tie is half"
    return Metric("win_rate", "higher", what)


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


def judge_held_out(judge: Judge, folder: Path) -> None:
    """Judge every held-out pair that a task has written into the folder, and keep the verdicts there.

    Raises what `Judge.check` raises, so that a judge that cannot be used is found out before anything is trained.
    """
    judge.check()
    rows = read_jsonl(folder / HELD_OUT)
    prompt, chosen, rejected = ([as_text(row[field]) for row in rows] for field in ("prompt", "chosen", "rejected"))
    _write(folder / _VERDICTS, judge.win_rates(prompt, chosen, rejected))


def read_agreement(material: Material) -> dict[str, float]:
    """The verdicts of `judge_held_out` by pair: 1 where the judge prefers the chosen response, 0.5 for a tie."""
    verdicts: list[float] = json.loads((material.folder / _VERDICTS).read_text(encoding="utf-8"))
    return {f"pair {index}": verdict for index, verdict in enumerate(verdicts)}


def read_or_make(path: Path, make: Callable[[], list[list[str]]]) -> list[list[str]]:
    """The content of a JSON file, which is first written from `make` where it does not exist."""
    if not path.exists():
        _write(path, make())
    content: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return content


def truncate(text: str, stops: Sequence[str]) -> str:
    """The text up to where the first of the stops begins, without space at its end."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))].rstrip()


def _write(path: Path, content: object) -> None:
    """Written beside and then moved: runs that share the material may read it at the same time."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(file.name, path)
