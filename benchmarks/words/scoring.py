"""From the numbers of tokens to those of words, and how well they tell words of sentiment from the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

import torch

from prefopt.tasks.ranking import auroc

__all__ = ["LEVELS", "Scored", "aurocs", "known", "scored", "words"]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class Word(NamedTuple):
    """A word of a response and the places of the tokens that have a letter of it."""

    text: str
    tokens: tuple[int, ...]


class Scored(NamedTuple):
    """Numbers of one kind, and whether each belongs to a word of the list."""

    values: list[float]
    sentiment: list[bool]


def words(pieces: Sequence[str]) -> list[Word]:
    """The words of a response, in lower case, from the texts of its tokens; punctuation is none.

    A word goes on over apostrophes and hyphens. The space before it is not part of it, so a token that ends with that
    space is not one of its tokens.
    """
    ends, position = [], 0
    for piece in pieces:
        begin, position = position + len(piece) - len(piece.lstrip()), position + len(piece)
        ends.append((begin, position))
    return [
        Word(
            match.group().lower(),
            tuple(at for at, (begin, end) in enumerate(ends) if begin < match.end() and match.start() < end),
        )
        for match in _WORD.finditer("".join(pieces))
    ]


def known(word: str, lexicon: Collection[str]) -> bool:
    """Whether the list has the word, or a part of it between hyphens: too-tepid is tepid."""
    return word in lexicon or any(part in lexicon for part in word.split("-"))


def _by_word(
    reduce: Callable[[Sequence[float]], float],
) -> Callable[[Sequence[str], Sequence[float], Collection[str]], Scored]:
    def read(pieces: Sequence[str], numbers: Sequence[float], lexicon: Collection[str]) -> Scored:
        found = words(pieces)
        return Scored(
            [reduce([numbers[at] for at in word.tokens]) for word in found],
            [known(word.text, lexicon) for word in found],
        )

    return read


def _by_token(pieces: Sequence[str], numbers: Sequence[float], lexicon: Collection[str]) -> Scored:
    inside = {at for word in words(pieces) if known(word.text, lexicon) for at in word.tokens}
    return Scored(list(numbers), [at in inside for at in range(len(pieces))])


LEVELS: Mapping[str, Callable[[Sequence[str], Sequence[float], Collection[str]], Scored]] = MappingProxyType(
    {"word, largest": _by_word(max), "word, mean": _by_word(fmean), "token": _by_token}
)
"""What is ranked: words, by the largest or the mean number of their tokens; or tokens, punctuation among them."""


def scored(level: str, pieces: Sequence[str], numbers: Sequence[float], lexicon: Collection[str]) -> Scored:
    """The numbers of a response at one of LEVELS."""
    return LEVELS[level](pieces, numbers, lexicon)


def aurocs(
    responses: Sequence[tuple[Sequence[str], Sequence[float]]], lexicon: Collection[str]
) -> dict[str, float | None]:
    """By level, over the responses of one pair: P(a word of the list has the larger number) + P(equal) / 2.

    Each response is the texts of its tokens and their numbers. None where the pair has no such word, or no other.
    """
    found = {}
    for level in LEVELS:
        parts = [scored(level, pieces, numbers, lexicon) for pieces, numbers in responses]
        values = [value for part in parts for value in part.values]
        sentiment = [flag for part in parts for flag in part.sentiment]
        found[level] = auroc(torch.tensor(values, dtype=torch.float64), torch.tensor(sentiment, dtype=torch.bool))
    return found
