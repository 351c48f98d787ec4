"""The generated language: its words, the Markov chain of its plain words, and the reward of a text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

WORDS = 117
"""All words; with the three special tokens, a vocabulary of 120."""

NEGATION = "not"
_PHRASES, _COMBINATIONS, _SPURIOUS, _FILLERS = 6, 3, 3, 3
_SUCCESSORS = 8


@final
@dataclass(frozen=True)
class Phrase:
    """Consecutive words with a value, all of them different."""

    words: tuple[str, ...]
    value: int


@final
@dataclass(frozen=True)
class Style:
    """How a response is drawn; shares are of its words.

    bearing       share of words of bearing phrases
    good          how many of these phrases are good ones
    combinations  share of combinations among these phrases; each of their words stands alone as often
    spurious      share of spurious words
    fillers       of the words beyond the first `shortest` ones, the share of fillers
    """

    bearing: float
    good: float
    combinations: float
    spurious: float
    fillers: float
    shortest: int


@final
@dataclass(frozen=True)
class Language:
    """The rule for the reward of a text, and a Markov chain of plain words, whose value is 0, around its phrases.

    The reward is the sum of the values of the phrases that occur in the text:

        R(y) = sum over phrases p and positions t of value(p) [y_t .. y_{t + |p| - 1} = p]

    Phrases cannot overlap: a word has one position in its phrases, so it belongs to one occurrence at most.
    A token's true weight is the change of the reward where a plain word replaces it: |value| within an occurrence of a
    phrase, and 0 elsewhere.

    singles        phrases with the value 1 or -1
    combinations   phrases of the negation and a word whose value without it is 0
    spurious, fillers   words of value 0 that the labels of the data may correlate with
    successors     plain word -> the plain words that may follow it, and their relative frequencies
    """

    singles: tuple[Phrase, ...]
    combinations: tuple[Phrase, ...]
    spurious: tuple[str, ...]
    fillers: tuple[str, ...]
    successors: Mapping[str, tuple[tuple[str, ...], tuple[float, ...]]]

    @classmethod
    def generate(cls, seed: int, *, span: int) -> Self:
        """The language of a seed, with bearing phrases of `span` words."""
        draw = random.Random(f"planted language {seed}")
        singles = tuple(
            Phrase(tuple(f"{kind}{number}{'abcdefgh'[part] if span > 1 else ''}" for part in range(span)), value)
            for kind, value in (("good", 1), ("bad", -1))
            for number in range(_PHRASES)
        )
        combinations = tuple(
            Phrase((NEGATION, f"turn{number}"), 1 if number < _COMBINATIONS else -1)
            for number in range(2 * _COMBINATIONS)
        )
        spurious = tuple(f"luck{number}" for number in range(_SPURIOUS))
        fillers = tuple(f"long{number}" for number in range(_FILLERS))
        special = 2 * _PHRASES * span + 1 + 2 * _COMBINATIONS + _SPURIOUS + _FILLERS
        plain = [f"w{number}" for number in range(WORDS - special)]
        successors = {}
        for word in plain:
            following = draw.sample(plain, _SUCCESSORS)
            successors[word] = (tuple(following), tuple(draw.random() ** 2 + 0.05 for _ in following))
        return cls(singles, combinations, spurious, fillers, successors)

    @property
    def plain(self) -> tuple[str, ...]:
        """The words of value 0 that no label correlates with."""
        return tuple(self.successors)

    @property
    def words(self) -> tuple[str, ...]:
        """Every word, once."""
        bearing = [word for phrase in (*self.singles, *self.combinations) for word in phrase.words]
        return tuple(dict.fromkeys((*bearing, *self.spurious, *self.fillers, *self.plain)))

    def reward(self, text: Sequence[str]) -> int:
        """R(y), the reward of the text."""
        return sum(phrase.value for _, phrase in self.occurrences(text))

    def weights(self, text: Sequence[str]) -> list[int]:
        """The true weight of each word of the text."""
        weights = [0] * len(text)
        for start, phrase in self.occurrences(text):
            weights[start : start + len(phrase.words)] = [abs(phrase.value)] * len(phrase.words)
        return weights

    def occurrences(self, text: Sequence[str]) -> list[tuple[int, Phrase]]:
        """The start and the phrase of every occurrence in the text."""
        phrases: dict[str, list[Phrase]] = {}
        for phrase in (*self.singles, *self.combinations):
            phrases.setdefault(phrase.words[0], []).append(phrase)
        return [
            (start, phrase)
            for start, word in enumerate(text)
            for phrase in phrases.get(word, ())
            if tuple(text[start : start + len(phrase.words)]) == phrase.words
        ]

    def prompt(self, draw: random.Random, length: int) -> list[str]:
        """Plain words that follow one another."""
        text = [draw.choice(self.plain)]
        while len(text) < length:
            text.append(self._next(draw, text[-1]))
        return text

    def response(self, draw: random.Random, prompt: Sequence[str], length: int, style: Style) -> list[str]:
        """`length` words after the prompt: the chain of plain words, interleaved with other words as the style says."""
        # The probability of beginning a phrase at which the words of phrases have their share of all words.
        size = (1 - style.combinations) * len(self.singles[0].words) + 2 * style.combinations
        begin = style.bearing / (size - style.bearing * (size - 1))
        lone = begin * style.combinations
        text: list[str] = []
        last = prompt[-1]
        while len(text) < length:
            chance = draw.random() - begin
            if chance < 0:
                words = self._phrase(draw, style).words
                text += words if len(text) + len(words) <= length else ()
            elif chance < lone:
                text.append(draw.choice(self.combinations).words[1])
            elif chance < 2 * lone:
                text.append(NEGATION)
            elif chance < 2 * lone + style.spurious:
                text.append(draw.choice(self.spurious))
            elif len(text) >= style.shortest and draw.random() < style.fillers:
                text.append(draw.choice(self.fillers))
            else:
                last = self._next(draw, last)
                text.append(last)
        return text

    def _next(self, draw: random.Random, word: str) -> str:
        following, weights = self.successors[word]
        return draw.choices(following, weights)[0]

    def _phrase(self, draw: random.Random, style: Style) -> Phrase:
        phrases = self.combinations if draw.random() < style.combinations else self.singles
        value = 1 if draw.random() < style.good else -1
        return draw.choice([phrase for phrase in phrases if phrase.value == value])
