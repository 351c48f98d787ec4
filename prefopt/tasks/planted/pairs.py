"""Preference pairs of the generated language, and the spurious correlations of their labels."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from prefopt.tasks.planted.language import Language, Style

PROMPT_WORDS = 4
_TRIES = 1000


@final
@dataclass(frozen=True)
class Accidents:
    """Noise of the labels, and what they correlate with other than the rewards of the responses.

    noise     share of pairs whose label is wrong
    spurious  c: chosen responses have spurious words at 1 + c times their share, rejected ones at 1 - c times
    length    c: the chosen response has the greater of the two lengths with probability (1 + c) / 2
    """

    noise: float = 0.0
    spurious: float = 0.0
    length: float = 0.0


@final
@dataclass(frozen=True)
class Generator:
    """Draws texts and pairs of the language. No prompt is drawn twice.

    style     of responses in which good and bad phrases are equally many
    longest   most words of a response; `style.shortest` is the least
    strength  a bearing phrase is good with probability (1 + strength) / 2 in the better response of a pair and
              (1 - strength) / 2 in the worse one
    """

    language: Language
    style: Style
    longest: int
    strength: float
    _prompts: set[tuple[str, ...]] = field(default_factory=set)

    def texts(self, draw: random.Random, count: int) -> Iterator[str]:
        """Prompt and response as one text, good and bad phrases being equally many."""
        for _ in range(count):
            prompt = self.language.prompt(draw, PROMPT_WORDS)
            yield " ".join(prompt + self.language.response(draw, prompt, self._length(draw), self.style))

    def prompts(self, draw: random.Random, count: int) -> Iterator[list[str]]:
        """Prompts that were not drawn before."""
        while count:
            prompt = self.language.prompt(draw, PROMPT_WORDS)
            if tuple(prompt) not in self._prompts:
                self._prompts.add(tuple(prompt))
                count -= 1
                yield prompt

    def pairs(self, draw: random.Random, count: int, accidents: Accidents) -> Iterator[dict[str, Any]]:
        """Rows with a prompt, two responses of unequal reward, and the true weights of their tokens.

        The response with the higher reward is the chosen one, noise aside. Raises ValueError where the settings make
        responses of unequal reward too rare.
        """
        for prompt in self.prompts(draw, count):
            swapped = draw.random() < accidents.noise
            lengths = sorted(self._length(draw) for _ in range(2))
            longer_is_chosen = draw.random() < (1 + accidents.length) / 2
            if longer_is_chosen != swapped:
                lengths.reverse()
            lean = -accidents.spurious if swapped else accidents.spurious
            for _ in range(_TRIES):
                better = self._response(draw, prompt, lengths[0], self.strength, lean)
                worse = self._response(draw, prompt, lengths[1], -self.strength, -lean)
                if self.language.reward(better) > self.language.reward(worse):
                    break
            else:
                raise ValueError(
                    f"planted: no two responses of unequal worth in {_TRIES} tries; raise `bearing`, `strength` or "
                    "`shortest`"
                )
            chosen, rejected = (worse, better) if swapped else (better, worse)
            yield {
                "prompt": " ".join(prompt),
                "chosen": " " + " ".join(chosen),
                "rejected": " " + " ".join(rejected),
                # The last token of a response is the end of the text.
                "chosen_weights": [*self.language.weights(chosen), 0],
                "rejected_weights": [*self.language.weights(rejected), 0],
            }

    def _length(self, draw: random.Random) -> int:
        return draw.randint(self.style.shortest, self.longest)

    def _response(
        self, draw: random.Random, prompt: Sequence[str], length: int, strength: float, lean: float
    ) -> list[str]:
        style = replace(self.style, good=(1 + strength) / 2, spurious=self.style.spurious * (1 + lean))
        return self.language.response(draw, prompt, length, style)
