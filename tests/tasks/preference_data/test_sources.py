"""Rows of every form become pairs, bad ones are found at once, and no prompt is on both sides of a split."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prefopt.data import ChatPair, DataError
from prefopt.tasks.preference_data.forms import Compared, Template, read_compared
from prefopt.tasks.preference_data.sources import Longest, Source, as_text
from prefopt.tasks.preference_data.split import split_by_prompt

PLAIN, TLDR = Template("{post}"), Template("{post}\n\nTL;DR:")


def source(folder: Path, rows: object, name: str = "rows.jsonl", **fields: Any) -> Source:
    path = folder / name
    lines = "".join(json.dumps(row) + "\n" for row in rows) if isinstance(rows, list) else json.dumps(rows)
    path.write_text(lines, encoding="utf-8")
    return Source(name=str(path), **fields)


def transcript(question: str, *answers: str) -> dict[str, str]:
    beginning = f"\n\nHuman: {question}\n\nAssistant:"
    return {side: f"{beginning} {answer}" for side, answer in zip(("chosen", "rejected"), answers, strict=True)}


def test_transcripts_have_their_prompt_in_common(tmp_path: Path) -> None:
    (pair,) = read_compared(source(tmp_path, [transcript("Who?", "Me.", "You.")]), PLAIN)
    assert pair.as_row() == {"prompt": "\n\nHuman: Who?\n\nAssistant:", "chosen": " Me.", "rejected": " You."}
    assert pair.post == pair.pair.prompt
    assert pair.references == (" Me.",)


def test_messages_stay_messages(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "Who?"}],
        "chosen": [{"role": "assistant", "content": "Me."}],
        "rejected": [{"role": "assistant", "content": "You."}],
        "tools": [{"name": "f"}],
    }
    (pair,) = read_compared(source(tmp_path, [row]), TLDR)
    assert isinstance(pair.pair, ChatPair)
    assert pair.as_row() == row
    assert (pair.post, pair.references) == ("Who?", ("Me.",))
    assert as_text([*row["prompt"], *row["chosen"]]) == "user: Who?\n\nassistant: Me."


def test_pairs_of_a_column_of_another_name_go_into_the_template(tmp_path: Path) -> None:
    row = {"question": "A long post.", "chosen": "Short.", "rejected": " Shorter."}
    (pair,) = read_compared(source(tmp_path, [row], columns={"prompt": "question"}), TLDR)
    assert pair.as_row() == {"prompt": "A long post.\n\nTL;DR:", "chosen": " Short.", "rejected": " Shorter."}
    assert pair.post == "A long post."


def test_what_no_pair_takes_of_its_row_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = {"prompt": "Who?", "chosen": "Me.", "rejected": "You.", "system": "Be brief.", "note": "checked", "id": 3}
    rated = {"prompt": "Why?", "responses": ["a", "b"], "rewards": [1, 0], "source": "web"}
    summaries = [{"text": "c"}, {"text": "d"}]
    compared = {"info": {"post": "p", "id": "x"}, "summaries": summaries, "choice": 0, "worker": "w"}
    with caplog.at_level(logging.WARNING, "prefopt"):
        read_compared(source(tmp_path, [pair, pair, rated, compared]), PLAIN)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "not used: column 'note' (2 rows); column 'source' (1 rows); column 'worker' (1 rows)",
        "guessed: 'system' put before the prompt (2 rows)",
    ]


def test_unequal_ratings_make_pairs(tmp_path: Path) -> None:
    rated = {"A post.": {"responses": [" a", " b", "c", " a"], "rewards": [2, 5, 5, 3]}, "Dull.": EQUAL}
    pairs = read_compared(source(tmp_path, rated, "rated.json"), TLDR)
    assert {(pair.pair.chosen, pair.pair.rejected, pair.scores) for pair in pairs} == {
        (" b", " a", (5.0, 2.0)),
        (" c", " a", (5.0, 2.0)),
        (" b", " a", (5.0, 3.0)),
        (" c", " a", (5.0, 3.0)),
    }
    assert {pair.references for pair in pairs} == {(" b", "c")}
    assert pairs[0].as_row()["score_chosen"] == 5
    assert pairs[0].as_prompt_row()["chosen"] == " b"
    lines = [{"prompt": post, **fields} for post, fields in rated.items()]
    assert [pair.as_row() for pair in read_compared(source(tmp_path, lines), TLDR)] == [pair.as_row() for pair in pairs]


EQUAL = {"responses": [" a", " b"], "rewards": [1, 1]}


def comparison(**changes: Any) -> dict[str, Any]:
    summaries = [{"text": " His own.", "policy": "ref"}, {"text": " A model's.", "policy": "sup1"}]
    info = {"post": "A post.", "title": "Title", "subreddit": "advice", "id": "t3"}
    return {"info": info, "summaries": summaries, "choice": 1} | changes


def test_comparisons_have_a_choice_and_the_author_s_summary(tmp_path: Path) -> None:
    template = Template("r/{subreddit}, {title}: {post}\nTL;DR:")
    (pair,) = read_compared(source(tmp_path, [comparison()]), template)
    assert pair.as_row() == {
        "prompt": "r/advice, Title: A post.\nTL;DR:",
        "chosen": " A model's.",
        "rejected": " His own.",
    }
    assert (pair.post, pair.references) == ("A post.", (" His own.",))
    others = [{"text": " One.", "policy": "sup1"}, {"text": " Two.", "policy": "sup2"}]
    (pair,) = read_compared(source(tmp_path, [comparison(summaries=others)]), template)
    assert pair.references == (" Two.",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "alone"}, "give those of one of the forms"),
        ({"prompt": "p", "responses": ["a", ""], "rewards": [1, 2]}, "found no list of responses"),
        ({"prompt": "p", "responses": ["a", "b"], "rewards": [1]}, "1 ratings of 2 responses"),
        ({"prompt": "p", "responses": ["a", "b"], "rewards": ["1", "2"]}, "found no list of ratings"),
        ({"prompt": " ", "responses": ["a", "b"], "rewards": [1, 2]}, "found no post"),
        (comparison(choice=2), "found the choice 2"),
        (comparison(summaries=[{"text": " a"}]), "no two different summaries"),
        (comparison(info={"title": "t"}), "found no post"),
        (comparison(info="post"), "found no object"),
        ({"chosen": "a", "rejected": "a"}, "the same response"),
        ({"chosen": "one", "rejected": "two"}, "found no prompt"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    good = transcript("Who?", "Me.", "You.")
    rows = source(tmp_path, [good, row])
    with pytest.raises(DataError, match=f"1 of 2 rows cannot be used(.|\n)*rows.jsonl:2: (.|\n)*{message}"):
        read_compared(rows, PLAIN)
    aside = rows.model_copy(update={"on_bad_rows": "quarantine"})
    for _ in range(2):  # the second time in place of the first
        assert len(read_compared(aside, PLAIN, quarantine=tmp_path / "bad-rows.jsonl")) == 1
    (bad,) = (tmp_path / "bad-rows.jsonl").read_text().splitlines()
    assert json.loads(bad)["content"] == row
    assert json.loads(bad)["where"].endswith("rows.jsonl:2")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_compared(Source(name=str(tmp_path / "none.jsonl")), PLAIN)
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(DataError, match="not a JSON document"):
        read_compared(Source(name=str(tmp_path / "broken.json")), PLAIN)
    (tmp_path / "doubled.json").write_text('{"a": {}, "a": {}}')
    with pytest.raises(DataError, match=r"doubled\.json: an object has the key 'a' twice"):
        read_compared(Source(name=str(tmp_path / "doubled.json")), PLAIN)
    with pytest.raises(DataError, match="post 1: found no object for a post"):
        read_compared(source(tmp_path, {"post": 3}, "odd.json"), PLAIN)
    with pytest.raises(DataError, match="no usable pair in 1 rows"):
        read_compared(source(tmp_path, {"Dull.": EQUAL}, "equal.json"), PLAIN)
    with pytest.raises(DataError, match="as short as `longest` says"):
        read_compared(source(tmp_path, [transcript("Who?", "Me.", "You.")]), PLAIN, Longest(prompt=2))
    with pytest.raises(ValidationError, match="which is nothing"):
        Source(name="rows.jsonl", part=(0.5, 0.5))
    for text, message in (
        ("TL;DR:", "it has no slot {post}"),
        ("{post} {tilte}", "no slot is named 'tilte'"),
        ("{", "Single"),
    ):
        with pytest.raises(ValueError, match=message):
            Template(text)


def test_lengths_are_words_of_the_longer_response(tmp_path: Path) -> None:
    rows = [transcript("one two", "a b c", "a"), transcript("one two three", "a", "b")]
    pairs = read_compared(source(tmp_path, rows), PLAIN, Longest(response=2))
    assert [pair.pair.chosen for pair in pairs] == [" a"]
    pairs = read_compared(source(tmp_path, rows), PLAIN, Longest(prompt=4))
    assert [pair.pair.chosen for pair in pairs] == [" a b c"]


def many(folder: Path, prompts: int = 40, **fields: Any) -> list[Compared]:
    rows = [transcript(f"Number {n}?", f"Yes {answer}.", "No.") for n in range(prompts) for answer in range(3)]
    return read_compared(source(folder, rows, **fields), PLAIN)


def test_parts_share_no_prompt_and_leave_none_out(tmp_path: Path) -> None:
    parts = [{pair.post for pair in many(tmp_path, part=part)} for part in ((0.0, 0.3), (0.3, 1.0))]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 40
    assert 3 <= len(parts[0]) <= 20


def test_a_split_is_by_prompt_and_by_seed(tmp_path: Path) -> None:
    every = many(tmp_path)
    train, held_out = split_by_prompt(every, held_out=10, train=None, seed=0)
    assert len(train) == 90
    assert len({pair.post for pair in held_out}) == len(held_out) == 10
    assert not {pair.post for pair in train} & {pair.post for pair in held_out}
    assert split_by_prompt(every, held_out=10, train=7, seed=0) == (train[:7], held_out)
    assert split_by_prompt(every, held_out=10, train=None, seed=1)[1] != held_out
    with pytest.raises(DataError, match="there are 40"):
        split_by_prompt(every, held_out=41, train=None, seed=0)
    with pytest.raises(DataError, match="leave no prompt to train on"):
        split_by_prompt(every, held_out=40, train=None, seed=0)


def test_held_out_data_of_its_own_is_kept_from_training(tmp_path: Path) -> None:
    every = many(tmp_path)
    other = [pair for pair in every if pair.post in {every[0].post, every[3].post}]
    train, held_out = split_by_prompt(every, held_out=2, train=None, seed=0, held_out_from=other)
    assert {pair.post for pair in held_out} == {every[0].post, every[3].post}
    assert len(train) == len(every) - 6
