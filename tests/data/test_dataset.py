import json
from datetime import date

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prefopt.data import BadRow, DataError, EncodingConfig, prepare, read_rows, rows_of

GOOD = {"prompt": "abc", "chosen": "dd", "rejected": "e"}
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def rows(*fields):
    return rows_of(fields, name="pairs")


def test_the_data_set(plain):
    dataset, report = prepare(
        rows(GOOD, GOOD | {"rejected": "f" * 9}), plain, EncodingConfig(max_length=8), description="pairs"
    )
    eos = plain.eos_token_id
    assert dataset[0] == {
        "row": 0,
        "length": 8,
        "where": "row 0 of pairs",
        "prompt_ids": plain("abc").input_ids,
        "chosen_ids": [*plain("dd").input_ids, eos],
        "rejected_ids": [*plain("e").input_ids, eos],
        "chosen_truncated": False,
        "rejected_truncated": False,
        "chosen_masked": [],
        "rejected_masked": [],
    }
    assert dataset[1]["prompt_ids"] == plain("bc").input_ids
    assert dataset[1]["rejected_ids"] == plain("f" * 6).input_ids
    assert (dataset[1]["chosen_truncated"], dataset[1]["rejected_truncated"]) == (False, True)
    assert dataset["row"][:] == [0, 1]
    assert report.rows == report.kept == 2


def test_rows_are_numbered_through_all_chunks(plain):
    count = 2345
    dataset, report = prepare(rows(*[GOOD] * count), plain, EncodingConfig(), description="pairs", total=count)
    assert report.kept == len(dataset) == count
    assert dataset["row"][:] == list(range(count))
    assert dataset[2344]["where"] == "row 2344 of pairs"


def test_the_report(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer(("c", "x"), adds_bos=True)
    source = rows(
        GOOD,
        GOOD | {"chosen": ""},
        GOOD | {"prompt": "a" * 20},
        GOOD | {"prompt": "a" * 20, "chosen": "d" * 30},
        GOOD | {"chosen": "d" * 30, "rejected": "e" * 30},
        GOOD | {"chosen": "x"},
        GOOD | {"chosen": "d" * 30, "rejected": "d" * 31},
        3,
    )
    _, report = prepare(
        source,
        tokenizer,
        EncodingConfig(max_length=12),
        description="pairs",
        on_bad_rows="quarantine",
        quarantine=tmp_path / "bad.jsonl",
    )
    assert report.to_dict() == {
        "rows": 8,
        "kept": 5,
        "quarantined": 2,
        "dropped_identical": 1,
        "dropped_too_long": 0,
        "prompts_truncated": 3,
        "prompt_tokens_cut": 12 + 18 + 1,
        "responses_truncated": 2,
        "response_tokens_cut": (31 - 9) + (31 - 9) * 2,
        "boundaries_moved": 1,
        "turns_masked": 0,
        "masked_tokens": 0,
        "prompt_length": {"minimum": 3, "median": 3, "quantile_95": 9, "maximum": 9},
        "chosen_length": {"minimum": 2, "median": 3, "quantile_95": 9, "maximum": 9},
        "rejected_length": {"minimum": 2, "median": 2, "quantile_95": 9, "maximum": 9},
        "left_out": {},
        "guessed": {},
    }
    assert report.rows == report.kept + report.quarantined + report.dropped_identical
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.lines() == [
        "8 rows read, 5 pairs kept",
        "2 bad rows set aside in the quarantine file",
        "1 pairs dropped: both responses are the same tokens",
        "3 prompts cut at their beginning, by 31 tokens in all",
        "2 pairs with a response cut at its end, by 66 tokens in all",
        "1 pairs whose prompt ends inside a token of a response; the boundary was moved",
        "tokens of prompt: 3 to 9, half up to 3, 95% up to 9",
        "tokens of chosen: 2 to 9, half up to 3, 95% up to 9",
        "tokens of rejected: 2 to 9, half up to 2, 95% up to 9",
    ]


def test_what_is_not_read_is_named(chat):
    user, answer = {"role": "user", "content": "p", "name": "Tom"}, {"role": "assistant", "content": "a", "weight": 1}
    tools = [{"name": "f"}]
    _, report = prepare(
        rows(
            GOOD | {"source": "web", "score": 0, "empty": "", "none": None},
            GOOD | {"source": "book", "tools": tools},
            {"prompt": [user], "chosen": [answer], "rejected": [answer | {"content": "b"}], "tools": tools},
        ),
        chat,
        EncodingConfig(chat_template_kwargs={"enable_thinking": False}),
        description="pairs",
    )
    unread = "which the chat template does not read"
    assert report.left_out == {
        "column 'source'": 2,
        "column 'score', which has no text": 1,
        "column 'tools'": 1,
        f"the key 'name' of messages, {unread} there": 1,
        f"the key 'weight' of messages, {unread} there": 1,
        f"'tools', {unread}": 1,
        f"'enable_thinking' of chat_template_kwargs, {unread}": 1,
        "'enable_thinking' of chat_template_kwargs, as the row is text": 2,
    }
    assert "not used: column 'source' (2 pairs)" in report.notices()
    assert not report.is_as_expected
    _, report = prepare(
        rows(GOOD | {f"column {number}": "x" for number in range(20)}), chat, EncodingConfig(), description="pairs"
    )
    assert len(report.left_out) == 20
    assert "not used: 8 more, which the report lists" in report.lines()


def test_extra_columns_are_read(plain):
    from prefopt import PairColumn

    extra = (PairColumn("best", at_least="worst"), PairColumn("worst"))
    row = GOOD | {"high": 2, "worst": 1, "other": 3}
    _, report = prepare(rows(row), plain, EncodingConfig(), description="pairs", columns={"best": "high"}, extra=extra)
    assert report.left_out == {"column 'other', which has no text": 1}
    assert report.is_as_expected


def test_what_is_guessed_is_counted(make_tokenizer):
    tokenizer = make_tokenizer(adds_bos=True)
    _, report = prepare(
        rows(
            GOOD,
            {"chosen": "The cat sat", "rejected": "The cat ran"},
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
            GOOD | {"prompt": "<s>abc"},
            GOOD | {"prompt": ""},
            GOOD | {"system": "s"},
        ),
        tokenizer,
        EncodingConfig(),
        description="pairs",
    )
    assert report.guessed == {
        "prompts taken from what both responses begin with": 2,
        "a BOS token in the text of the prompt merged with the one that the tokenizer adds": 1,
        "'system' put before the prompt": 1,
    }
    _, report = prepare(rows(GOOD | {"prompt": ""}), make_tokenizer(), EncodingConfig(), description="pairs")
    assert report.guessed == {"no prompt: a BOS or EOS token stands for it": 1}


def test_text_for_a_tokenizer_with_a_chat_template(chat):
    _, report = prepare(rows(GOOD, GOOD | {"prompt": "</s>a"}), chat, EncodingConfig(), description="pairs")
    (guess,) = report.guessed.items()
    assert guess[0].startswith("text read as it is, without the tokenizer's chat template; to have that, give")
    assert guess[1] == 1


def test_characters_without_a_token():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "abc": 1, "dd": 2, "e": 3, "</s>": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    spaced = {field: f"{text} " for field, text in GOOD.items()}
    source = rows(spaced, spaced | {"chosen": "dd é"})
    _, report = prepare(source, tokenizer, EncodingConfig(), description="pairs")
    assert report.left_out == {"characters that the tokenizer has no token for": 1}


@pytest.mark.parametrize("on_bad_rows", ["stop", "quarantine"])
def test_pairs_that_are_too_long(plain, tmp_path, on_bad_rows):
    long = GOOD | {"chosen": "d" * 30}
    settings = {"description": "pairs", "on_bad_rows": on_bad_rows, "quarantine": tmp_path / "bad.jsonl"}
    config = EncodingConfig(max_length=12, on_too_long="drop")
    dataset, report = prepare(rows(GOOD, long), plain, config, **settings)
    assert (len(dataset), report.rows, report.kept, report.dropped_too_long) == (1, 2, 1, 1)
    assert "1 pairs dropped: too long" in report.lines()
    with pytest.raises(DataError, match="no usable pair in 1 rows; 1 are too long"):
        prepare(rows(long), plain, config, **settings)
    with pytest.raises(
        DataError, match=r"1 of 2 pairs are too long, and on_too_long is 'stop'.*\n  row 1 of pairs: "
    ) as e:
        prepare(rows(GOOD, long), plain, EncodingConfig(max_length=12, on_too_long="stop"), **settings)
    assert "a prompt of 3 tokens and a longer response of 31, over max_length 12; raise the limit" in str(e.value)


def test_lines_leave_out_what_did_not_happen(plain):
    _, report = prepare(rows(*[GOOD] * 1200), plain, EncodingConfig(), description="pairs")
    assert report.lines()[0] == "1,200 rows read, 1,200 pairs kept"
    assert len(report.lines()) == 4


def test_lengths_are_nearest_rank_quantiles(plain):
    _, report = prepare(
        rows(*(GOOD | {"prompt": "a" * length} for length in range(100, 0, -1))),
        plain,
        EncodingConfig(),
        description="pairs",
    )
    lengths = report.prompt_length
    assert (lengths.minimum, lengths.median, lengths.quantile_95, lengths.maximum) == (1, 50, 95, 100)


def test_stop_reads_to_the_end_and_lists_the_first_ten(plain, tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps(GOOD), "{", *[json.dumps(GOOD | {"chosen": number}) for number in range(1200)]]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        prepare(read_rows(path), plain, EncodingConfig(), description="train data")
    first, *listed = str(error.value).splitlines()
    assert first.startswith(
        "train data: 1,201 of 1,202 rows cannot be used; mend them, or have training set them aside"
    )
    assert len(listed) == 11
    assert listed[0].startswith(f"  {path}:2: found a line that is not JSON (")
    assert listed[1] == f"  {path}:3: field 'chosen': found the value 0; give text or a list of messages"
    assert listed[-1] == "  ... and 1,191 more"


def test_rows_of_one_fault_are_listed_three_times(plain):
    bad = [{"question": "p", "better": "a", "worse": "b"}] * 60
    with pytest.raises(DataError) as error:
        prepare(rows(*bad), plain, EncodingConfig(), description="pairs")
    _, *listed = str(error.value).splitlines()
    assert [line.split(":")[0] for line in listed] == [*(f"  row {row} of pairs" for row in range(3)), listed[3]]
    assert listed[3] == "  ... and 57 more like these"
    with pytest.raises(DataError, match=r"(?s)row 60 of pairs: field 'chosen': found the value 3.*and 57 more like"):
        prepare(rows(*bad, {"prompt": "p", "chosen": 3}), plain, EncodingConfig(), description="pairs")


def test_a_bad_row_of_the_encoding_stops_too(make_tokenizer):
    with pytest.raises(DataError, match=r"1 of 1 rows.*\n  row 0 of pairs: field 'prompt': found no prompt"):
        prepare(rows(GOOD | {"prompt": ""}), make_tokenizer(eos=False), EncodingConfig(), description="pairs")


def test_quarantine(plain, tmp_path):
    path = tmp_path / "runs" / "bad.jsonl"
    source = [
        GOOD,
        BadRow("a.jsonl:2", "", "found a line that is not JSON (...)", "mend or remove the line", "{"),
        *rows(GOOD | {"chosen": None, "on": date(2024, 5, 1), "note": "é"}, GOOD | {"rejected": "\ud83d"}),
    ]
    source[0] = next(rows(GOOD))
    for _ in range(2):  # a second run replaces the file
        dataset, report = prepare(
            source, plain, EncodingConfig(), description="pairs", on_bad_rows="quarantine", quarantine=path
        )
    assert (len(dataset), report.quarantined) == (1, 3)
    text = path.read_text(encoding="utf-8")
    assert "é" in text
    assert [json.loads(line) for line in text.splitlines()] == [
        {
            "where": "a.jsonl:2",
            "field": "",
            "problem": "found a line that is not JSON (...)",
            "remedy": "mend or remove the line",
            "row": "{",
        },
        {
            "where": "row 0 of pairs",
            "field": "chosen",
            "problem": "found nothing (null)",
            "remedy": "give text or a list of messages",
            "row": GOOD | {"chosen": None, "on": "2024-05-01", "note": "é"},
        },
        {
            "where": "row 1 of pairs",
            "field": "rejected",
            "problem": "found a broken character at position 0",
            "remedy": "remove it, or write the file as UTF-8",
            "row": GOOD | {"rejected": "\ud83d"},
        },
    ]


def test_quarantine_without_bad_rows_leaves_an_empty_file(plain, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("of an earlier run")
    options = {"description": "pairs", "on_bad_rows": "quarantine", "quarantine": path}
    _, report = prepare(rows(GOOD), plain, EncodingConfig(), **options, overwrite=True)
    assert report.quarantined == 0
    assert path.read_text() == ""


def test_rows_that_were_set_aside_before_are_not_written_over(plain, tmp_path):
    path = tmp_path / "bad.jsonl"
    options = {"description": "pairs", "on_bad_rows": "quarantine", "quarantine": path}
    for _ in range(2):  # the same rows again are no others
        prepare(rows(GOOD, GOOD | {"chosen": 1}), plain, EncodingConfig(), **options)
    before = path.read_text()
    with pytest.raises(DataError, match=r"bad\.jsonl holds other rows than those that are set aside now"):
        prepare(rows(GOOD, GOOD | {"rejected": 1}), plain, EncodingConfig(), **options)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("bad.jsonl", before)]


def test_no_usable_row(plain, tmp_path):
    quarantine = {"on_bad_rows": "quarantine", "quarantine": tmp_path / "bad.jsonl"}
    for mode in ({}, quarantine):
        with pytest.raises(DataError, match="pairs: no usable pair in 0 rows; it is empty"):
            prepare(rows(), plain, EncodingConfig(), description="pairs", **mode)
        with pytest.raises(DataError, match="in 1 rows; 1 have two responses that are the same tokens"):
            prepare(rows(GOOD | {"rejected": "ddd"}), plain, EncodingConfig(max_length=2), description="pairs", **mode)
    with pytest.raises(DataError, match=r"in 1 rows; 1 are for .*bad.jsonl\n  row 0 of pairs: field 'chosen': found"):
        prepare(rows({"a": 1}), plain, EncodingConfig(), description="pairs", **quarantine)


def test_arguments_that_do_not_fit(plain):
    with pytest.raises(ValueError, match="no quarantine file is named"):
        prepare(rows(GOOD), plain, EncodingConfig(), description="pairs", on_bad_rows="quarantine")
    with pytest.raises(ValueError, match="'skip' is none of stop, quarantine"):
        prepare(rows(GOOD), plain, EncodingConfig(), description="pairs", on_bad_rows="skip")
    with pytest.raises(DataError, match="no field 'choice'"):
        prepare(rows(GOOD), plain, EncodingConfig(), description="pairs", columns={"choice": "a"})


def test_nothing_is_printed_without_a_terminal(plain, capsys, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    prepare(rows(GOOD), plain, EncodingConfig(), description="[pairs]")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_terminal_shows_progress(plain, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr(
        "datasets.are_progress_bars_disabled", lambda: False
    )  # a contender in a benchmark's turns them off
    prepare(rows(GOOD), plain, EncodingConfig(), description="[pairs]", total=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "[pairs]" in captured.err
    assert "1/1" in captured.err


@pytest.mark.slow
def test_hh_transcripts(shared, tmp_path):
    """Anthropic's harmless-base test set: 2,312 transcripts, in four of which a response is empty."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")
    source = read_rows(shared / "data" / "hh_harmless_base_test.jsonl.gz")
    dataset, report = prepare(
        source,
        tokenizer,
        EncodingConfig(max_length=512),
        description="hh",
        on_bad_rows="quarantine",
        quarantine=tmp_path / "bad.jsonl",
    )
    assert (report.rows, report.kept + report.dropped_identical, report.quarantined) == (2312, 2308, 4)
    assert report.boundaries_moved == 0
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert {line["problem"] for line in bad} == {"found an empty response"}
    for pair in dataset.select(range(200)):
        prompt = tokenizer.decode(pair["prompt_ids"], skip_special_tokens=True)
        assert prompt.endswith("Assistant:") or "Assistant:".endswith(prompt)  # the latter where little of it is left
        for side in ("chosen", "rejected"):
            assert len(pair["prompt_ids"]) + len(pair[f"{side}_ids"]) <= 512
            assert (pair[f"{side}_ids"][-1] == tokenizer.eos_token_id) is not pair[f"{side}_truncated"]


@pytest.mark.slow
def test_sharegpt_conversations(shared):
    """LLaMA-Factory's demonstration set: 300 pairs, of which 186 begin with a system message or have several turns."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")
    tokenizer.chat_template = CHAT_TEMPLATE
    dataset, report = prepare(
        read_rows(shared / "data" / "lf_dpo_en_demo.json"),
        tokenizer,
        EncodingConfig(max_length=None),
        columns={"prompt": "conversations"},
        description="demo",
    )
    assert (report.rows, report.kept, report.prompts_truncated, report.responses_truncated) == (300, 300, 0, 0)
    assert sum("<system>" in tokenizer.decode(pair["prompt_ids"]) for pair in dataset) == 80
    for pair in dataset:
        assert tokenizer.decode(pair["prompt_ids"]).endswith("<assistant>")
        assert tokenizer.decode(pair["chosen_ids"]).rstrip().endswith("</s>")
