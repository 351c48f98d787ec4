"""Held-out prompts, what a policy answers to them, and how often a judge prefers that to other answers."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.comparison.judges import Judge
from prefopt.comparison.sources import as_text
from prefopt.comparison.task import HELD_OUT, Material, Metric
from prefopt.comparison.written import Generation, Prompt, Written, write

__all__ = ["Against", "Asked", "answered", "asked", "cut", "judged", "judged_metrics", "try_judge"]

Against = Literal["chosen", "reference"]
"""Whose answers a policy's are set against: those that the held-out data prefers, or the reference's own samples."""

_THEIRS = {"chosen": "the preferred responses of the held-out data", "reference": "the reference's own samples"}

_AGREEMENT, _REFERENCE = "judge.json", "reference-answers.json"


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


def answered(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    material: Material,
    generation: Generation,
    stops: Sequence[str],
) -> Written:
    """What `write` gives for the held-out prompts of the material, with texts that end at the stops."""
    prompts = [each.prompt for each in asked(material)]
    written = write(policy, reference, tokenizer, prompts, generation, seed=material.seed)
    return written._replace(texts=[[cut(text, stops) for text in of] for of in written.texts])


def judged_metrics(against: Against) -> tuple[Metric, Metric]:
    """What `judged` gives values of."""
    return (
        Metric(
            "win_rate",
            "higher",
            f"share of samples that the judge prefers to {_THEIRS[against]}; a tie is half",
        ),
        Metric(
            "judge_agreement",
            "neither",
            "share of held-out pairs of which the judge prefers the chosen response: what its win rates are worth",
        ),
    )


def try_judge(judge: Judge, folder: Path) -> None:
    """Ask the judge of every held-out pair that a task has written into the folder, and keep its verdicts there.

    Raises what `Judge.check` raises, so that a judge that is of no use is found out before anything is trained.
    """
    judge.check()
    rows = [json.loads(line) for line in (folder / HELD_OUT).read_text(encoding="utf-8").splitlines()]
    prompt, chosen, rejected = ([as_text(row[field]) for row in rows] for field in ("prompt", "chosen", "rejected"))
    _write(folder / _AGREEMENT, judge.win_rates(prompt, chosen, rejected))


def judged(
    judge: Judge,
    against: Against,
    material: Material,
    texts: Sequence[Sequence[str]],
    reference: Callable[[], Sequence[Sequence[str]]],
) -> dict[str, dict[str, float]]:
    """The metrics of `judged_metrics` by item. For each prompt, the share of its samples that win over another answer
    to it, the first over the first and so on; a tie is half. For each held-out pair, the verdict of `try_judge`.

    The answers of the reference are asked for once for each material, and kept in a file of it. They are drawn from
    the same seed as the policy's, so that a policy that has not moved gives the same answers, and ties.
    """
    questions, sizes = asked(material), [len(of) for of in texts]
    if against == "chosen":
        theirs = [[as_text(each.row["chosen"])] * size for each, size in zip(questions, sizes, strict=True)]
    else:
        path = material.folder / _REFERENCE
        if not path.exists():
            _write(path, [list(of) for of in reference()])
        theirs = json.loads(path.read_text(encoding="utf-8"))
    prompts = [each.text for each, size in zip(questions, sizes, strict=True) for _ in range(size)]
    rates = iter(
        judge.win_rates(prompts, [text for of in texts for text in of], [text for of in theirs for text in of])
    )
    verdicts = json.loads((material.folder / _AGREEMENT).read_text(encoding="utf-8"))
    return {
        "win_rate": {
            each.item: fmean(next(rates) for _ in range(size)) for each, size in zip(questions, sizes, strict=True)
        },
        "judge_agreement": {f"pair {place}": verdict for place, verdict in enumerate(verdicts)},
    }


def _write(path: Path, content: object) -> None:
    """Written apart and then moved: runs that share the material may look for it at the same time."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(file.name, path)
