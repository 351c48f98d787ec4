"""The generated language: what a text is worth, which tokens bear it, and what the knobs do to pairs."""

from __future__ import annotations

import dataclasses
import random
from itertools import pairwise
from typing import Any

import pytest

from prefopt.tasks.planted import Language
from prefopt.tasks.planted.language import WORDS, Style
from prefopt.tasks.planted.pairs import Accidents, Generator

LANGUAGE = Language.generate(0, span=1)
KINDS = ("good", "bad", "turn", "luck", "long", "not", "w")


def generator(language: Language = LANGUAGE, **changes: Any) -> Generator:
    style = Style(bearing=0.125, good=0.5, combinations=0.0, spurious=0.04, fillers=0.0, shortest=24)
    settings: dict[str, Any] = {"longest": 24, "strength": 1.0} | changes
    fields = {name: settings.pop(name) for name in changes if name not in ("longest", "strength")}
    return Generator(language, dataclasses.replace(style, **fields), **settings)


def drawn(count: int, accidents: Accidents | None = None, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    return list(generator(**changes).pairs(random.Random(seed), count, accidents or Accidents()))


def words(text: str) -> list[str]:
    return text.split()


def share(rows: list[dict[str, Any]], side: str, kind: str) -> float:
    """The share of words of a kind in the responses of a side."""
    every = [word for row in rows for word in words(row[side])]
    return sum(word.startswith(kind) for word in every) / len(every)


def test_a_language_is_its_seed() -> None:
    assert Language.generate(3, span=2) == Language.generate(3, span=2) != Language.generate(4, span=2)
    assert drawn(20) == drawn(20) != drawn(20, seed=1)


@pytest.mark.parametrize("span", [1, 2, 4])
def test_there_are_as_many_words_as_it_says_and_phrases_cannot_overlap(span: int) -> None:
    language = Language.generate(0, span=span)
    assert len(language.words) == len(set(language.words)) == WORDS
    assert len(language.plain) > 40
    assert all(word.startswith(KINDS) for word in language.words)
    positions: dict[str, set[int]] = {}
    for phrase in (*language.singles, *language.combinations):
        assert len(set(phrase.words)) == len(phrase.words)
        for position, word in enumerate(phrase.words):
            positions.setdefault(word, set()).add(position)
    assert all(len(indices) == 1 for indices in positions.values())
    assert not positions.keys() & set(language.plain)


@pytest.mark.parametrize(
    ("span", "text", "reward", "weights"),
    [
        (1, "w1 w2 w3", 0, [0, 0, 0]),
        (1, "good0 w2 bad1 good0", 1, [1, 0, 1, 1]),
        (1, "turn0 w1 not turn0 not w2 turn3", 1, [0, 0, 1, 1, 0, 0, 0]),
        (1, "not not turn5 luck0 long1", -1, [0, 1, 1, 0, 0]),
        (2, "good0a good0b good0b good1a w1 good1b bad2a", 1, [1, 1, 0, 0, 0, 0, 0]),
        (2, "bad2a bad2b bad2a bad2b", -2, [1, 1, 1, 1]),
        (1, "", 0, []),
    ],
)
def test_worth_and_weights_by_hand(span: int, text: str, reward: int, weights: list[int]) -> None:
    language = Language.generate(0, span=span)
    assert language.reward(words(text)) == reward
    assert language.weights(words(text)) == weights


@pytest.mark.parametrize("span", [1, 3])
def test_a_weight_is_the_change_of_worth_when_a_plain_word_takes_the_place(span: int) -> None:
    language, draw = Language.generate(1, span=span), random.Random(0)
    style = Style(bearing=0.4, good=0.5, combinations=0.5, spurious=0.05, fillers=0.0, shortest=30)
    borne = 0
    for _ in range(40):
        text = language.response(draw, language.prompt(draw, 4), 30, style)
        replaced = [
            abs(language.reward(text) - language.reward([*text[:index], language.plain[0], *text[index + 1 :]]))
            for index in range(len(text))
        ]
        assert language.weights(text) == replaced
        borne += sum(replaced)
    assert borne > 200


def test_plain_words_follow_the_chain_across_what_is_put_between_them() -> None:
    row = drawn(1)[0]
    for side in ("chosen", "rejected"):
        chain = [word for word in words(row["prompt"]) + words(row[side]) if word in LANGUAGE.successors]
        assert len(chain) > 15
        assert all(after in LANGUAGE.successors[before][0] for before, after in pairwise(chain))


def test_the_better_response_is_chosen_and_prompts_come_once() -> None:
    rows = drawn(300, strength=0.3)
    worth = [(LANGUAGE.reward(words(row["chosen"])), LANGUAGE.reward(words(row["rejected"]))) for row in rows]
    assert all(chosen > rejected for chosen, rejected in worth)
    assert len({row["prompt"] for row in rows}) == 300


def test_strength_is_how_surely_a_better_response_has_good_phrases() -> None:
    sure, loose = drawn(300), drawn(300, strength=0.0)
    assert share(sure, "chosen", "bad") == share(sure, "rejected", "good") == 0
    assert share(loose, "chosen", "good") > share(loose, "chosen", "bad") > 0.02


@pytest.mark.parametrize(("span", "combinations"), [(1, 0.0), (3, 0.0), (1, 0.5), (2, 1.0)])
def test_bearing_is_the_share_of_words_that_bear_worth(span: int, combinations: float) -> None:
    language, draw = Language.generate(0, span=span), random.Random(0)
    style = Style(bearing=0.2, good=0.5, combinations=combinations, spurious=0.04, fillers=0.0, shortest=100)
    texts = [language.response(draw, language.prompt(draw, 4), 100, style) for _ in range(200)]
    assert {len(text) for text in texts} == {100}
    assert sum(sum(language.weights(text)) for text in texts) / 20_000 == pytest.approx(0.2, abs=0.02)


def test_combinations_are_worth_something_and_their_words_alone_are_not() -> None:
    rows = drawn(200, combinations=1.0)
    texts = [words(row[side]) for row in rows for side in ("chosen", "rejected")]
    lone = sum(word.startswith("turn") for text in texts for word in text) - sum(
        len(LANGUAGE.occurrences(text)) for text in texts
    )
    assert share(rows, "chosen", "good") == share(rows, "rejected", "bad") == 0
    assert lone > 200


def test_noise_is_the_share_of_wrong_labels() -> None:
    rows = drawn(1000, Accidents(noise=0.2))
    wrong = sum(LANGUAGE.reward(words(row["chosen"])) < LANGUAGE.reward(words(row["rejected"])) for row in rows)
    assert wrong / 1000 == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_spurious_words_go_with_the_label_where_they_are_said_to(noise: float) -> None:
    accidental = drawn(400, Accidents(noise=noise, spurious=0.8))
    assert share(accidental, "chosen", "luck") == pytest.approx(0.04 * 1.8, rel=0.15)
    assert share(accidental, "rejected", "luck") == pytest.approx(0.04 * 0.2, rel=0.35)
    true = drawn(400)
    assert share(true, "chosen", "luck") == pytest.approx(share(true, "rejected", "luck"), rel=0.2)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_lengths_and_fillers_go_with_the_label_where_they_are_said_to(noise: float) -> None:
    def longer(rows: list[dict[str, Any]]) -> float:
        pairs = [(len(words(row["chosen"])), len(words(row["rejected"]))) for row in rows]
        unequal = [chosen > rejected for chosen, rejected in pairs if chosen != rejected]
        return sum(unequal) / len(unequal)

    lengths = {"shortest": 10, "longest": 30, "fillers": 0.5}
    biased, fair = drawn(400, Accidents(noise=noise, length=0.8), **lengths), drawn(400, **lengths)
    assert longer(biased) == pytest.approx(0.9, abs=0.05)
    assert longer(fair) == pytest.approx(0.5, abs=0.1)
    chosen, rejected = (
        sum(word.startswith("long") for row in biased for word in words(row[side])) for side in ("chosen", "rejected")
    )
    assert chosen > 1.5 * rejected > 0
    assert not [w for row in fair for w in words(row["chosen"])[:10] if w.startswith("long")]


def test_settings_that_leave_nothing_to_prefer_are_refused() -> None:
    with pytest.raises(ValueError, match="raise `bearing`, `strength` or `shortest`"):
        drawn(1, bearing=1e-9)
