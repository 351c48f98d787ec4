"""Preference pairs of scored responses, within each prompt."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final

from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.tasks.generation.generate import Generation, sample_texts
from prefopt.tasks.scorers.base import Scorer

__all__ = ["Pairing", "Scored", "sampled", "split"]


class Scored(NamedTuple):
    """A response and its score. `end` is what follows the text where the response did end, else nothing."""

    text: str
    score: float
    end: str = ""


@final
class Pairing(BaseModel):
    """A prompt's best response against its worst, its second best against its second worst, and so on.

    most     pairs of a prompt; no response is in two
    min_gap  the least difference of the scores of a pair, which always differ
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    most: int = Field(default=4, ge=1)
    min_gap: float = Field(default=0.0, ge=0)

    def rows(self, prompt: str, responses: Iterable[Scored]) -> Iterator[dict[str, Any]]:
        """The pairs of a prompt as rows, with their scores. Responses without a word are left out."""
        ranked = sorted((each for each in responses if each.text.strip()), key=lambda each: -each.score)
        for better, worse in zip(ranked[: min(self.most, len(ranked) // 2)], reversed(ranked), strict=False):
            if better.score > worse.score and better.score - worse.score >= self.min_gap:
                yield {
                    "prompt": prompt,
                    "chosen": better.text + better.end,
                    "rejected": worse.text + worse.end,
                    "chosen_score": better.score,
                    "rejected_score": worse.score,
                }

    def of(self, responses: Mapping[str, Sequence[Scored]], what: str) -> list[dict[str, Any]]:
        """The pairs of all prompts. Raises ValueError where there is none."""
        rows = [row for prompt, of in responses.items() for row in self.rows(prompt, of)]
        if not rows:
            raise ValueError(
                f"sentiment: {len(responses)} {what} gave no pair: no two responses of one prompt have scores that "
                f"differ and are at least {self.min_gap} apart; ask for more `samples`, lower `pairing.min_gap`, or "
                "take another `scorer`"
            )
        return rows


def split(prompts: Sequence[str], *, held_out: int, train: int, seed: int) -> tuple[list[str], list[str]]:
    """At most `train` prompts to train on, and `held_out` others, drawn by the seed.

    Raises ValueError where there are too few.
    """
    if len(prompts) <= held_out:
        raise ValueError(
            f"sentiment: {held_out} prompts are to be held out, but there are {len(prompts)} in all; lower `held_out`"
        )
    drawn = list(prompts)
    random.Random(f"sentiment prompts {seed}").shuffle(drawn)
    return drawn[held_out : held_out + train], drawn[:held_out]


def sampled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    scorer: Scorer,
    *,
    end: str,
    samples: int,
    max_new_tokens: int,
    seed: int,
) -> dict[str, list[Scored]]:
    """Prompt -> so many samples of the model, drawn from its whole distribution, and what the scorer says of them."""
    generation = Generation(samples=samples, max_new_tokens=max_new_tokens)
    texts = sample_texts(model, tokenizer, prompts, generation, seed=seed, end=end)
    plain = [text.removesuffix(end) for of in texts for text in of]
    scores = iter(scorer.score([prompt for prompt in prompts for _ in range(samples)], plain))
    return {
        prompt: [Scored(text.removesuffix(end), next(scores), end if text.endswith(end) else "") for text in of]
        for prompt, of in zip(prompts, texts, strict=True)
    }
