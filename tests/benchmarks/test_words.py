"""The benchmark of words: the tokens of words, AUROC by hand, the pairs, and a suite in small."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from prefopt.comparison.run_log import RunLog
from prefopt.comparison.runner import RUNS, compare
from prefopt.comparison.suite import Suite

LIST = {"good", "dull", "tepid", "well-made"}
SUITES = Path(__file__).parents[2] / "benchmarks" / "words"

pytestmark = pytest.mark.usefixtures("words_plugin")


@pytest.mark.slow
def test_the_tokens_of_a_word_are_those_with_a_letter_of_it() -> None:
    from prefopt_words.scoring import words

    response = words([" a", " te", "pid", ",", " it", "'s", " D", "ull", "."])
    assert response == [("a", (0,)), ("tepid", (1, 2)), ("it's", (4, 5)), ("dull", (6, 7))]
    # The space before a word is not part of it.
    assert words([" good ", " good", "\n", "dull"]) == [("good", (0,)), ("good", (1,)), ("dull", (3,))]
    # A token that spans two words is one of both.
    assert words([" so good", " x"]) == [("so", (0,)), ("good", (0,)), ("x", (1,))]


@pytest.mark.parametrize(
    ("word", "there"), [("good", True), ("too-tepid", True), ("well-made", True), ("goods", False), ("well", False)]
)
def test_a_word_with_a_hyphen_is_listed_by_its_parts(word: str, there: bool) -> None:
    from prefopt_words.scoring import has_word

    assert has_word(LIST, word) is there


def test_aurocs_of_a_pair_by_hand() -> None:
    from prefopt_words.scoring import pair_aurocs

    # Words, by the largest token: tepid 3, good 1; a 2, film 0.5, so 3 of 4 comparisons are won. By the mean: tepid 1.5
    # and good 1 against 2 and 0.5: 2 of 4. Tokens: 0, 3, 1 against 2, 0.5, 5: 0 + 2 + 1 of 9.
    chosen = ([" te", "pid", " a"], [0.0, 3.0, 2.0])
    rejected = ([" good", " film", "."], [1.0, 0.5, 5.0])
    assert pair_aurocs([chosen, rejected], LIST) == {"largest": 0.75, "mean": 0.5, "token": pytest.approx(3 / 9)}
    # Equal weights know nothing; a pair without a word of the list has no AUROC.
    assert set(pair_aurocs([([" good", " film"], [1.0, 1.0])], LIST).values()) == {0.5}
    assert pair_aurocs([([" a", " film"], [1.0, 2.0])], LIST) == {}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    def write(name: str, files: dict[str, str]) -> None:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)

    lines = {
        kind: "".join(f"{word} {number} {'very ' * (number % 7)}\n" for number in range(40))
        for kind, word in (("pos", "good"), ("neg", "bad"))
    }
    write("nltk_sentence_polarity.zip", {f"sentence_polarity/rt-polarity.{kind}": text for kind, text in lines.items()})
    files = {"positive": ";   a comment\n\ngood\n", "negative": "; another\nbad\n"}
    write("nltk_opinion_lexicon.zip", {f"opinion_lexicon/{kind}-words.txt": text for kind, text in files.items()})
    write("nltk_movie_reviews.zip", {"movie_reviews/pos/cv000.txt": "a good film\n", "movie_reviews/README": "no\n"})
    return tmp_path


def test_no_sentence_is_in_two_pairs_and_partners_are_equally_long(data: Path) -> None:
    from prefopt_words.material import sentence_pairs

    rows = sentence_pairs(data)
    assert len({json.dumps(row) for row in rows}) == 40
    for row in rows:
        assert row["chosen"].startswith(" good")
        assert row["rejected"].startswith(" bad")
        assert len(row["chosen"].split()) == len(row["rejected"].split())
    assert sentence_pairs(data) == rows


def test_a_sentence_that_comes_twice_is_refused(data: Path) -> None:
    from prefopt_words.material import sentence_pairs

    with zipfile.ZipFile(data / "nltk_sentence_polarity.zip", "w") as archive:
        archive.writestr("sentence_polarity/rt-polarity.pos", "good\nfine\n")
        archive.writestr("sentence_polarity/rt-polarity.neg", "bad\ngood\n")
    with pytest.raises(ValueError, match=r"rt-polarity.neg: line 2 is a sentence that came before: 'good'"):
        sentence_pairs(data)


def test_comments_are_no_words(data: Path) -> None:
    from prefopt_words.material import word_list

    assert word_list(data) == {"good", "bad"}


@pytest.mark.parametrize("name", ["words", "development"])
def test_the_suites_hold_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFOPT_SHARED", "/a/folder/of/inputs")
    suite = Suite.load(SUITES / f"{name}.yaml")
    assert len(suite.runs()) == len(suite.seeds) * (1 + len(suite.objectives))
    assert suite.task.headline == "auroc_largest_w"


@pytest.mark.slow
def test_the_suite_in_small(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFOPT_SHARED", str(data))
    small = [f"task.data={data}", "task.held_out=6", "task.development=4", "task.reference_steps=3", "seeds=[0]"]
    suite = Suite.load(SUITES / "words.yaml", [*small, "training.max_steps=2"], ["sparsepo_token", "published"])
    assert compare(suite, data / "out") == []
    records = {record["name"]: record["values"] for record in RunLog(data / "out" / RUNS).records.values()}
    for values in records.values():
        assert {metric.name for metric in suite.task.metrics} <= set(values)
        assert set(values["auroc_token_w"]) == {f"pair {index}" for index in range(6)}
    assert set(records["reference"]["auroc_mean_w"].values()) == {0.5}
    assert set(records["reference"]["auroc_mean_shift"].values()) == {0.5}
    assert records["reference"]["auroc_largest_surprisal"] == records["sparsepo_token"]["auroc_largest_surprisal"]
