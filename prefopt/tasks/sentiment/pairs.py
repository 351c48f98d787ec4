"""Scored responses, sampled or read from rows, and their preference pairs within a prompt."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.data.quiet import quiet
from prefopt.sampling import Generation, sample_texts
from prefopt.tasks.preference_data.texts import rows_with
from prefopt.tasks.scorers.base import LexicalScorer, Scorer
from prefopt.validation import Settings

_NO_SPACE_BEFORE = ".,;:!?')"


class Scored(NamedTuple):
    """A response and its score. `end` is the end-of-text token of a response that ended, else empty."""

    text: str
    score: float
    end: str = ""


@final
class Rated(Settings):
    """Rows with the columns `prompt`, `text` and `reward`.

    source  a file, folder or hub name that `prefopt.data.read_rows` takes
    split   of a hub data set
    words   responses are truncated to that many words; null: not at all
    """

    source: str
    split: str = "train"
    words: int | None = Field(default=None, ge=1)

    def read(self) -> Mapping[str, list[Scored]]:
        """Prompt -> its responses and their rewards. A response starts with a space, unless its first character is a
        punctuation mark that takes none. Raises DataError."""
        responses: dict[str, list[Scored]] = {}
        for fields in rows_with(self.source, self.split, ("prompt", "text", "reward")):
            # Reviews from the web have line breaks as tags.
            text = " ".join(str(fields["text"]).replace("<br />", " ").split()[: self.words])
            space = "" if text[:1] in _NO_SPACE_BEFORE else " "
            responses.setdefault(str(fields["prompt"]), []).append(Scored(space + text, float(fields["reward"])))
        return responses


@final
class Pairing(Settings):
    """Pairs a prompt's best response with its worst, its second best with its second worst, and so on.

    most     pairs per prompt; no response is in two
    min_gap  the least difference between the scores of a pair; equal scores never make one

    >>> list(Pairing().rows("It was", [Scored(" good", 1.0), Scored(" bad", -1.0)]))[0]["chosen"]
    ' good'
    """

    most: int = Field(default=4, ge=1)
    min_gap: float = Field(default=0.0, ge=0)

    def rows(
        self, prompt: str, responses: Iterable[Scored], lexicon: LexicalScorer | None = None
    ) -> Iterator[dict[str, Any]]:
        """The pairs of a prompt as rows, with the scores that `odpo` reads. Blank responses are left out.

        The sizes of the lexicon's words are the token column `weights`.
        """
        ranked = sorted((response for response in responses if response.text.strip()), key=lambda r: -r.score)
        for better, worse in zip(ranked[: min(self.most, len(ranked) // 2)], reversed(ranked), strict=False):
            if better.score > worse.score and better.score - worse.score >= self.min_gap:
                yield {
                    "prompt": prompt,
                    "chosen": better.text + better.end,
                    "rejected": worse.text + worse.end,
                    "score_chosen": better.score,
                    "score_rejected": worse.score,
                } | _weights(lexicon, chosen=better.text, rejected=worse.text)

    def all_rows(
        self, responses: Mapping[str, Sequence[Scored]], description: str, lexicon: LexicalScorer | None = None
    ) -> list[dict[str, Any]]:
        """The pairs of all prompts. Raises ValueError if there is none."""
        rows = [row for prompt, scored in responses.items() for row in self.rows(prompt, scored, lexicon)]
        if not rows:
            raise ValueError(
                f"sentiment: {len(responses)} {description} gave no pair: no two responses of one prompt have scores "
                f"that differ and are at least {self.min_gap} apart; ask for more `samples`, lower `pairing.min_gap`, "
                "or take another `scorer`"
            )
        return rows


def _weights(lexicon: LexicalScorer | None, **responses: str) -> dict[str, list[dict[str, Any]]]:
    """The fields of the column `weights`: spans of the responses, with the sizes of what they add to scores."""
    if lexicon is None:
        return {}
    return {
        f"{side}_weights": [span._asdict() | {"value": abs(span.value)} for span in lexicon.spans(text)]
        for side, text in responses.items()
    }


def split(prompts: Sequence[str], *, held_out: int, train: int, seed: int) -> tuple[list[str], list[str]]:
    """At most `train` prompts for training and `held_out` others, drawn by the seed.

    Raises ValueError if there are too few.
    """
    if len(prompts) <= held_out:
        raise ValueError(
            f"sentiment: {held_out} prompts are to be held out, but there are {len(prompts)} in all; lower `held_out`"
        )
    shuffled = list(prompts)
    random.Random(f"sentiment prompts {seed}").shuffle(shuffled)
    return shuffled[held_out : held_out + train], shuffled[:held_out]


def scored_samples(
    folder: Path, prompts: Sequence[str], scorer: Scorer, generation: Generation, *, end: str, seed: int
) -> dict[str, list[Scored]]:
    """Prompt -> samples of the model in the folder, with their scores; `end` is the model's end-of-text token."""
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        texts = sample_texts(model, tokenizer, prompts, generation, seed=seed, end=end)
        plain = [text.removesuffix(end) for responses in texts for text in responses]
        scores = iter(scorer.score([prompt for prompt in prompts for _ in range(generation.samples)], plain))
    return {
        prompt: [Scored(text.removesuffix(end), next(scores), end if text.endswith(end) else "") for text in responses]
        for prompt, responses in zip(prompts, texts, strict=True)
    }
