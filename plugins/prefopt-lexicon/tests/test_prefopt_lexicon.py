"""The component keeps what every token weighting has to keep, and exactly the tokens of the words carry `inside`."""

from __future__ import annotations

import json

import pytest
import torch
from prefopt_lexicon import LexiconWeighting
from prefopt_lexicon.annotate import annotate, pattern, words
from prefopt_lexicon.cli import main
from prefopt_lexicon.task import MarkedTask
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefopt import Objective, ObjectiveConfig, PreferenceBatch, TokenBatch
from prefopt.data import BadRow, EncodingConfig, PreferenceCollator, SourceRow, prepare, read_rows
from prefopt.tasks.conformance import check_task
from prefopt.testing import conformance

CHAT = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROMPT = {"role": "user", "content": "Is it good?"}


@conformance(LexiconWeighting(), LexiconWeighting(inside=2, outside=0.5), LexiconWeighting(inside=0, outside=1))
def test_conformance(check):
    check()


def test_rewards_are_of_what_is_marked():
    log_ratios = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    columns = {"lexicon": torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, torch.nan]])}
    tokens = TokenBatch(
        logps=log_ratios, ref_logps=torch.zeros(2, 3), mask=mask, token_ids=mask.long(), columns=columns
    )
    config = ObjectiveConfig(beta=1.0, weighting={"name": "lexicon", "inside": 3, "outside": 0.5})
    rewards = Objective(config, num_layers=1, hidden_size=1)(tokens).rewards
    assert rewards.tolist() == [1 * 0.5 + 2 * 3 + 4 * 3, 1 * 3 + 2 * 0.5]


@pytest.mark.parametrize("wrong", [{"inside": -1}, {"outside": -0.1}, {"inside": float("inf")}])
def test_weights_that_are_none_are_refused(wrong):
    with pytest.raises(ValidationError):
        LexiconWeighting(**wrong)


def tokenizer(*merges):
    """A token for every byte, but for the merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in merges]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", chat_template=CHAT)


def weighed(row, matches, reader=None, *, column="lexicon"):
    """Of each response, the text and the weight of every token."""
    weighting = LexiconWeighting(inside=2, outside=0.5, column=column)
    reader = reader or tokenizer()
    marked = annotate(SourceRow("pairs.jsonl:1", row), matches, column=column)
    extra = tuple(weighting.columns)
    dataset, _ = prepare([marked], reader, EncodingConfig(), description="pairs", extra=extra)
    batch = PreferenceBatch.from_mapping(PreferenceCollator(0, columns=extra)(list(dataset)))
    responses = []
    for side in ("chosen", "rejected"):
        mask, ids = getattr(batch, f"{side}_mask"), getattr(batch, f"{side}_ids")
        none = torch.zeros(mask.shape)
        columns = {column: batch.columns[f"{side}:{column}"]}
        tokens = TokenBatch(logps=none, ref_logps=none, mask=mask, token_ids=ids, columns=columns)
        responses.append((reader.decode(ids[0][mask[0]]), weighting(tokens)[0][mask[0]].tolist()))
    return responses


def expected(text, *marked):
    """The text and weights of its bytes, where each of `marked` stands once."""
    characters = [0.5] * len(text)
    for word in marked:
        assert text.count(word) == 1
        at = text.index(word)
        characters[at : at + len(word)] = [2.0] * len(word)
    weights = [weight for character, weight in zip(text, characters, strict=True) for _ in character.encode()]
    return f"{text}</s>", [*weights, 0.5]


LEXICON = words(["not", "no longer", "é", "", "  "])


def test_exactly_the_tokens_of_the_words_in_text():
    row = {"prompt": "Is it not good?", "chosen": " It's NOT é, notably.", "rejected": " It is no\n longer so: knot."}
    assert weighed(row, LEXICON) == [expected(row["chosen"], "NOT", "é"), expected(row["rejected"], "no\n longer")]


def test_where_the_prompt_is_no_field_of_its_own():
    row = {"chosen": "It is not so much not bad", "rejected": "It is not so much good, no longer"}
    assert weighed(row, LEXICON) == [expected(" not bad", "not"), expected(" good, no longer", "no longer")]


def test_words_of_the_prompt_are_left_out_where_the_response_holds_it():
    row = annotate(SourceRow("here", {"chosen": "It is not so bad", "rejected": "It is not so not"}), LEXICON)
    assert row.fields["chosen_lexicon"] == []
    assert row.fields["rejected_lexicon"] == [{"start": 13, "end": 16}]


def test_transcripts():
    start = "\n\nHuman: Is it not?\n\nAssistant:"
    row = {"chosen": f"{start} It is not.", "rejected": f"{start} Not it."}
    assert weighed(row, LEXICON) == [expected(" It is not.", "not"), expected(" Not it.", "Not")]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_chat_rows(listed, whole):
    """A response as a message or a list of one, or as the end of a conversation that repeats the prompt."""
    row = {"prompt": [PROMPT]}
    for side, text in (("chosen", "It is é."), ("rejected", "not not good")):
        message = {"role": "assistant", "content": text}
        row[side] = [PROMPT, message] if whole else [message] if listed else message
    chosen, (text, weights) = weighed(row, LEXICON)
    assert chosen == expected("It is é.", "é")
    assert (text, weights) == ("not not good</s>", [2] * 3 + [0.5] + [2] * 3 + [0.5] * 6)


def test_sharegpt_rows_and_another_column():
    row = {
        "prompt": [{"from": "human", "value": "So?"}],
        "chosen": {"from": "gpt", "value": "not so"},
        "rejected": {"from": "gpt", "value": "so"},
    }
    assert weighed(row, LEXICON, column="negation") == [expected("not so", "not"), expected("so")]


def test_a_token_that_joins_a_space_to_the_word_is_inside():
    row = {"prompt": "So?", "chosen": " not", "rejected": " it"}
    (_, weights), _ = weighed(row, LEXICON, tokenizer(("Ġ", "n"), ("o", "t")))
    assert weights == [2, 2, 0.5]


@pytest.mark.parametrize(
    ("matches", "text", "words"),
    [
        (words(["not"]), "Not knot, not_ NOT-", ["Not", "NOT"]),
        (words(["not"], case_sensitive=True), "Not not", ["not"]),
        (words(["no", "no longer"]), "no  longer no", ["no  longer", "no"]),
        (words(["c++", "a.b"]), "C++ c+++ axb a.b", ["C++", "c++", "a.b"]),
        (words(["ÉTÉ"]), "été", ["été"]),
        (pattern(r"\d+"), "a12b3", ["12", "3"]),
        (pattern("x*"), "axxb", ["xx"]),
        (pattern("A"), "aA", ["a", "A"]),
        (pattern("A", case_sensitive=True), "aA", ["A"]),
    ],
)
def test_what_matches(matches, text, words):
    row = annotate(SourceRow("here", {"prompt": "p", "chosen": text, "rejected": "?"}), matches)
    assert [text[span["start"] : span["end"]] for span in row.fields["chosen_lexicon"]] == words
    assert row.fields["rejected_lexicon"] == []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"chosen": 3, "rejected": "b"}, "field 'chosen': found the value 3"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "rejected_lexicon": []}, "found the field already"),
        ({"prompt": [PROMPT], "chosen": [{"role": "assistant", "content": "a"}] * 2, "rejected": []}, "empty response"),
        (
            {
                "prompt": [PROMPT],
                "chosen": [{"role": "assistant", "content": "a"}] * 2,
                "rejected": {"role": "assistant", "content": "b"},
            },
            "field 'chosen': found a response of 2 messages",
        ),
    ],
)
def test_rows_that_cannot_be_marked_come_back_as_bad(fields, problem):
    row = annotate(SourceRow("pairs.jsonl:3", fields), LEXICON)
    assert isinstance(row, BadRow)
    assert problem in str(row)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_command_marks_a_file(tmp_path, capsys):
    rows = [
        {"prompt": "p", "chosen": "Not é", "rejected": "it", "id": 1},
        {"prompt": "p", "chosen": "it", "rejected": "so", "id": 2},
    ]
    source, target = write(tmp_path / "pairs.jsonl", *rows), tmp_path / "marked.jsonl"
    (tmp_path / "words.txt").write_text("\ufeffnot\n\né\n", encoding="utf-8")
    assert main([source, str(target), "--words", str(tmp_path / "words.txt")]) == 0
    spans = [[{"start": 0, "end": 3}, {"start": 4, "end": 5}], []]
    marked = [row.fields for row in read_rows(target)]
    assert marked == [
        row | {"chosen_lexicon": marked_spans, "rejected_lexicon": []}
        for row, marked_spans in zip(rows, spans, strict=True)
    ]
    printed = capsys.readouterr().out
    assert "2 rows, of which 1 without a match; 2 matches in chosen responses, 0 in rejected ones" in printed
    # Into the file that it reads, under another name beside the first.
    again = [str(target), str(target), "--pattern", "IT", "--case-sensitive", "--column", "it"]
    assert main(again) == 2
    assert f"{target} is there already; name another file, or replace it by --overwrite" in capsys.readouterr().err
    assert [row.fields for row in read_rows(target)] == marked
    assert main([*again, "--overwrite"]) == 0
    assert [row.fields for row in read_rows(target)] == [row | {"chosen_it": [], "rejected_it": []} for row in marked]


def test_the_command_refuses_what_it_cannot_use_and_writes_nothing(tmp_path, capsys):
    source = write(tmp_path / "pairs.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"}, {"chosen": "a"})
    target = tmp_path / "marked.jsonl"
    for arguments, message in [
        ([source, "--pattern", "a"], f"1 of 2 rows cannot be marked\n  {source}:2: field 'rejected': found no such"),
        ([source, "--pattern", "("], "'(' is no regular expression"),
        ([source, "--words", write(tmp_path / "none.txt")], "a lexicon without words"),
        ([source, "--words", str(tmp_path / "absent.txt")], "absent.txt"),
        ([str(tmp_path / "absent.jsonl"), "--pattern", "a"], "no such file"),
    ]:
        assert main([arguments[0], str(target), *arguments[1:]]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.txt", "pairs.jsonl"]
    with pytest.raises(SystemExit):
        main([source, str(target)])


def test_a_task_is_marked_for_comparisons(tmp_path):
    inner = {"name": "planted", "pairs": 8, "held_out": 4, "prompts": 2, "reference_steps": 2}
    task = MarkedTask(task=inner, words=["good0a", "bad0a"])
    check_task(task, tmp_path)
    material = task.prepare(tmp_path / "first", 0)
    for path in (material.train, material.held_out):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            marked = {row["chosen"][span["start"] : span["end"]] for span in row["chosen_lexicon"]}
            assert marked == {"good0a", "bad0a"} & set(row["chosen"].split())


def test_a_task_without_words_is_refused():
    with pytest.raises(ValidationError, match="write one word or phrase a line"):
        MarkedTask(task="planted", words=[])


def test_marked_tasks_within_each_other_have_columns_of_their_own():
    inner = {"name": "marked", "task": "planted", "words": ["not"]}
    with pytest.raises(ValidationError, match="'marked' inside it adds the column 'lexicon' too; leave one out"):
        MarkedTask(task=inner, words=["so"])
    between = {**inner, "task": inner, "column": "others"}
    with pytest.raises(ValidationError, match="'marked' inside it adds the column 'lexicon' too"):
        MarkedTask(task=between, words=["so"])
    MarkedTask(task={**inner, "column": "others"}, words=["so"])
