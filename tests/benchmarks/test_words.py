"""How the benchmark of words scores: pieces of words, and AUROC by hand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from benchmarks.words.material import lexicon, pairs
from benchmarks.words.report import differences, estimates
from benchmarks.words.scoring import aurocs, known, words

LIST = {"good", "dull", "tepid", "well-made"}


def test_the_tokens_of_a_word_are_those_with_a_letter_of_it() -> None:
    found = words([" a", " te", "pid", ",", " it", "'s", " D", "ull", "."])
    assert found == [("a", (0,)), ("tepid", (1, 2)), ("it's", (4, 5)), ("dull", (6, 7))]


def test_a_space_before_a_word_is_none_of_it() -> None:
    assert words([" good ", " good", "\n", "dull"]) == [("good", (0,)), ("good", (1,)), ("dull", (3,))]


def test_a_token_that_spans_two_words_is_one_of_each() -> None:
    assert words([" so good", " x"]) == [("so", (0,)), ("good", (0,)), ("x", (1,))]


@pytest.mark.parametrize(
    ("word", "there"), [("good", True), ("too-tepid", True), ("well-made", True), ("goods", False), ("well", False)]
)
def test_a_word_with_a_hyphen_is_known_by_its_parts(word: str, there: bool) -> None:
    assert known(word, LIST) is there


def test_aurocs_of_a_pair_by_hand() -> None:
    # Words, by the largest token: tepid 3, good 1; a 2, film 0.5, so 3 of 4 comparisons are won. By the mean: tepid 1.5
    # and good 1 against 2 and 0.5: 2 of 4. Tokens: 0, 3, 1 against 2, 0.5, 5: 0 + 2 + 1 of 9.
    chosen = ([" te", "pid", " a"], [0.0, 3.0, 2.0])
    rejected = ([" good", " film", "."], [1.0, 0.5, 5.0])
    assert aurocs([chosen, rejected], LIST) == {"word, largest": 0.75, "word, mean": 0.5, "token": pytest.approx(3 / 9)}


def test_equal_weights_know_nothing_and_no_word_of_the_list_gives_no_figure() -> None:
    assert set(aurocs([([" good", " film"], [1.0, 1.0])], LIST).values()) == {0.5}
    assert set(aurocs([([" a", " film"], [1.0, 2.0])], LIST).values()) == {None}


def test_seeds_are_averaged_pair_by_pair() -> None:
    # Pair by pair: (0.2 + 0.4) / 2 and (0.8 + 0.6) / 2, and one that has no figure under any seed.
    found = estimates([[0.2, None, 0.8], [0.4, None, 0.6]])
    assert found["mean"] == pytest.approx(0.5)
    assert found["low"] == pytest.approx(0.3)
    assert found["high"] == pytest.approx(0.7)
    assert found["seeds"] == pytest.approx([0.5, 0.5])
    assert found["pairs"] == 2


def test_a_difference_is_taken_pair_by_pair() -> None:
    found = differences([[0.5, None, 0.9]], [[0.4, None, 0.8]])
    assert found["mean"] == found["low"] == found["high"] == pytest.approx(0.1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    def write(name: str, files: dict[str, str]) -> None:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)

    lines = {
        kind: "".join(f"{kind} {number} {'very ' * (number % 7)}\n" for number in range(1600))
        for kind in ("pos", "neg")
    }
    write("nltk_sentence_polarity.zip", {f"sentence_polarity/rt-polarity.{kind}": of for kind, of in lines.items()})
    files = {"positive": ";   a comment\n\ngood\n", "negative": "; another\nbad\n"}
    write("nltk_opinion_lexicon.zip", {f"opinion_lexicon/{kind}-words.txt": of for kind, of in files.items()})
    return tmp_path


def test_no_sentence_is_in_two_pairs_and_partners_are_equally_long(data: Path) -> None:
    split = pairs(data)
    every = [*split.train, *split.development, *split.held_out]
    assert (len(split.development), len(split.held_out), len(every)) == (500, 1000, 1600)
    assert len({json.dumps(row) for row in every}) == 1600
    for row in every:
        assert row["chosen"].startswith(" pos")
        assert row["rejected"].startswith(" neg")
        assert len(row["chosen"].split()) == len(row["rejected"].split())
    assert pairs(data) == split


def test_a_sentence_that_comes_twice_is_refused(data: Path) -> None:
    with zipfile.ZipFile(data / "nltk_sentence_polarity.zip", "w") as archive:
        archive.writestr("sentence_polarity/rt-polarity.pos", "good\nfine\n")
        archive.writestr("sentence_polarity/rt-polarity.neg", "bad\ngood\n")
    with pytest.raises(ValueError, match=r"rt-polarity.neg: line 2 is a sentence that came before: 'good'"):
        pairs(data)


def test_comments_are_no_words(data: Path) -> None:
    assert lexicon(data) == {"good", "bad"}
