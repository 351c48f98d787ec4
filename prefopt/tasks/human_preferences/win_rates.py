"""Held-out prompts, and how often a judge prefers what a policy answers to them to other answers."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prefopt.tasks.base import HELD_OUT, Material, Metric
from prefopt.tasks.generation.generate import Prompt, means
from prefopt.tasks.judges import Judge
from prefopt.tasks.preference_data.sources import as_text

__all__ = ["AGREEMENT", "Against", "Asked", "agreement", "asked", "cut", "kept", "try_judge", "win_rate", "win_rates"]

Against = Literal["chosen", "reference"]
"""Whose answers a policy's are set against: those that the held-out data prefers, or the reference's own samples."""

_THEIRS = {"chosen": "the preferred responses of the held-out data", "reference": "the reference's own samples"}

AGREEMENT = Metric(
    "judge_agreement",
    "neither",
    "share of held-out pairs of which the judge prefers the chosen response: what its win rates are worth",
)

_VERDICTS = "judge.json"


class Asked(NamedTuple):
    """A held-out prompt: the name of the item, the prompt as the model is given it, and the row that it is from."""

    item: str
    prompt: Prompt
    row: Mapping[str, Any]

    @property
    def text(self) -> str:
        return as_text(self.prompt)


def asked(material: Material) -> list[Asked]:
    """The held-out prompts, named "prompt 0", "prompt 1" and so on."""
    return [Asked(f"prompt {place}", row["prompt"], row) for place, row in enumerate(material.asked())]


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to where the first of the stops begins, without space at its end."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))].rstrip()


def try_judge(judge: Judge, folder: Path) -> None:
    """Ask the judge of every held-out pair that a task has written into the folder, and keep its verdicts there.

    Raises what `Judge.check` raises, so that a judge that is of no use is found out before anything is trained.
    """
    judge.check()
    rows = [json.loads(line) for line in (folder / HELD_OUT).read_text(encoding="utf-8").splitlines()]
    prompt, chosen, rejected = ([as_text(row[field]) for row in rows] for field in ("prompt", "chosen", "rejected"))
    _write(folder / _VERDICTS, judge.win_rates(prompt, chosen, rejected))


def agreement(material: Material) -> dict[str, float]:
    """The verdicts of `try_judge` by held-out pair: 1 where the judge prefers the chosen response, 0.5 for a tie."""
    verdicts: list[float] = json.loads((material.folder / _VERDICTS).read_text(encoding="utf-8"))
    return {f"pair {place}": verdict for place, verdict in enumerate(verdicts)}


def win_rate(against: Against) -> Metric:
    """The metric that `win_rates` gives values of."""
    what = f"share of samples that the judge prefers to {_THEIRS[against]}; a tie is half"
    return Metric("win_rate", "higher", what)


def win_rates(
    judge: Judge, questions: Sequence[Asked], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]
) -> list[float]:
    """For each prompt the share of its samples that win, the first over their first and so on; a tie is half."""
    rates = judge.win_rates(
        [each.text for each, of in zip(questions, ours, strict=True) for _ in of],
        [text for of in ours for text in of],
        [text for of in theirs for text in of],
    )
    return means(rates, ours)


def kept(path: Path, make: Callable[[], list[list[str]]]) -> list[list[str]]:
    """What the file holds; if there is none yet, what `make` gives, and the file holds it from then on."""
    if not path.exists():
        _write(path, make())
    found: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, content: object) -> None:
    """Written apart and then moved: runs that share the material may look for it at the same time."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(file.name, path)
