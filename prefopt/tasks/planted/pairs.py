"""Preference pairs of the generated language, with what their labels go with by right and by accident."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from prefopt.tasks.planted.language import Language, Style

__all__ = ["Accidents", "Generator"]

_TRIES = 1000


@final
@dataclass(frozen=True)
class Accidents:
    """What the labels of some pairs go with, other than the worth of the responses.

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

    strength  a bearing phrase is good with probability (1 + strength) / 2 in the better response of a pair and
              (1 - strength) / 2 in the worse one
    """

    language: Language
    shortest: int
    longest: int
    prompt: int
    bearing: float
    combinations: float
    spurious: float
    fillers: float
    strength: float
    seen: set[tuple[str, ...]] = field(default_factory=set)

    def texts(self, draw: random.Random, count: int) -> Iterator[str]:
        """Prompt and response as one text, good and bad phrases being equally many."""
        for _ in range(count):
            prompt = self.language.prompt(draw, self.prompt)
            length = draw.randint(self.shortest, self.longest)
            yield " ".join(prompt + self.language.response(draw, prompt, length, self._style(0.5, 0.0)))

    def prompts(self, draw: random.Random, count: int) -> Iterator[list[str]]:
        """Prompts that were not drawn before."""
        while count:
            prompt = self.language.prompt(draw, self.prompt)
            if tuple(prompt) not in self.seen:
                self.seen.add(tuple(prompt))
                count -= 1
                yield prompt

    def pairs(self, draw: random.Random, count: int, accidents: Accidents) -> Iterator[dict[str, Any]]:
        """Rows with a prompt, two responses of unequal worth, and the true weights of their tokens.

        The better response is the chosen one, but for noise. Raises ValueError where the settings leave responses that
        differ in worth too rare to be drawn.
        """
        for prompt in self.prompts(draw, count):
            swapped = draw.random() < accidents.noise
            lengths = sorted(draw.randint(self.shortest, self.longest) for _ in range(2))
            longer_is_chosen = draw.random() < (1 + accidents.length) / 2
            if (longer_is_chosen, swapped) in ((True, False), (False, True)):
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
                "chosen_weights": self._weights(chosen),
                "rejected_weights": self._weights(rejected),
            }

    def _response(
        self, draw: random.Random, prompt: Sequence[str], length: int, strength: float, lean: float
    ) -> list[str]:
        return self.language.response(draw, prompt, length, self._style((1 + strength) / 2, lean))

    def _style(self, good: float, lean: float) -> Style:
        return Style(self.bearing, good, self.combinations, self.spurious * (1 + lean), self.fillers, self.shortest)

    def _weights(self, response: Sequence[str]) -> list[int]:
        """The true weights of the response's tokens; the last one is the end of the text."""
        return [*self.language.weights(response), 0]
