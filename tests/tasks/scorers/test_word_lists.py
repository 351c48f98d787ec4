"""Word lists: the score of a text, the tokens of listed words, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefopt.tasks.scorers.words import Lexicon, WordsScorer

FEW = Lexicon(positive={"good", "Fine"}, negative={"bad", "so-so"})


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0),
        ("Neither here nor there.", 0),
        ("GOOD, fine!", 1),
        ("goodness, badly", 0),
        ("good good bad", 1 / 3),
        ("so-so but good", 0),
        ("bad.", -1),
    ],
)
def test_the_score_is_the_net_share_of_sentiment_words(text: str, score: float) -> None:
    assert FEW.score(text) == pytest.approx(score)


def test_a_word_of_several_tokens_is_marked_whole() -> None:
    tokens = [" so", " go", "od", ",", " good", "ness", "</s>"]
    assert WordsScorer(positive=("good",), negative=("bad",)).marks(tokens) == [0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("positive: [good", "neither YAML nor JSON"),
        ("[good, bad]", "a mapping is needed"),
        ("positive: [good]", "negative: it is needed"),
        ("{positive: [good], negative: [Good]}", "'good' is both"),
        ("{positive: [good], negative: []}", "negative: the list is empty"),
        ("{positive: [very good], negative: [bad]}", "'very good' is not"),
        ("{positive: [good], negative: [bad], neutral: [x]}", "neutral: no such field"),
    ],
)
def test_a_word_list_that_cannot_be_used_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "words.yaml").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        Lexicon.load(tmp_path / "words.yaml")
    assert "words.yaml" in str(caught.value)
