"""From the values of tokens to those of words, and how well they tell words of a list from the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch

from prefopt.tasks.ranking import auroc

__all__ = ["LEVELS", "Word", "has_word", "pair_aurocs", "words"]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class Word(NamedTuple):
    """A word of a response, in lower case, and the indices of the tokens that have a letter of it."""

    text: str
    tokens: tuple[int, ...]


def words(tokens: Sequence[str]) -> list[Word]:
    """The words of a response, given as its tokens' texts; punctuation is none.

    A word goes on over apostrophes and hyphens. The space before it is not part of it, so a token that ends with that
    space is not one of its tokens.
    """
    spans, position = [], 0
    for token in tokens:
        start, position = position + len(token) - len(token.lstrip()), position + len(token)
        spans.append((start, position))
    return [
        Word(
            match.group().lower(),
            tuple(index for index, (start, end) in enumerate(spans) if start < match.end() and match.start() < end),
        )
        for match in _WORD.finditer("".join(tokens))
    ]


def has_word(listed: Collection[str], word: str) -> bool:
    """Whether the list has the word, or a part of it between hyphens: too-tepid is tepid."""
    return word in listed or any(part in listed for part in word.split("-"))


Scores = tuple[list[float], list[bool]]
"""Scores, and whether each belongs to a word of the list."""


def _word_level(reduce: Callable[[Sequence[float]], float]) -> Callable[..., Scores]:
    def scores(tokens: Sequence[str], values: Sequence[float], listed: Collection[str]) -> Scores:
        response = words(tokens)
        reduced = [reduce([values[index] for index in word.tokens]) for word in response]
        return reduced, [has_word(listed, word.text) for word in response]

    return scores


def _token_level(tokens: Sequence[str], values: Sequence[float], listed: Collection[str]) -> Scores:
    inside = {index for word in words(tokens) if has_word(listed, word.text) for index in word.tokens}
    return list(values), [index in inside for index in range(len(tokens))]


LEVELS: Mapping[str, tuple[Callable[..., Scores], str]] = {
    "largest": (_word_level(max), "words, by the largest value of their tokens"),
    "mean": (_word_level(fmean), "words, by the mean value of their tokens"),
    "token": (_token_level, "tokens, punctuation included"),
}
"""What is ranked."""


def pair_aurocs(
    responses: Sequence[tuple[Sequence[str], Sequence[float]]], listed: Collection[str]
) -> dict[str, float]:
    """level -> P(a word of the list has the larger value) + P(equal) / 2, over the responses of a pair.

    A response is its tokens' texts and their values. Empty if the pair has no word of the list, or no other.
    """
    aurocs = {}
    for level, (score, _) in LEVELS.items():
        scored = [score(tokens, values, listed) for tokens, values in responses]
        values = torch.tensor([value for part, _ in scored for value in part], dtype=torch.float64)
        value = auroc(values, torch.tensor([flag for _, flags in scored for flag in flags], dtype=torch.bool))
        if value is not None:
            aurocs[level] = value
    return aurocs
