"""Extra columns: a number for the pair, numbers or spans for the tokens of the responses."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer

from prefopt.columns import PairColumn, TokenColumn
from prefopt.data import BadRow, DataError, EncodingConfig, prepare, read_rows, rows_of

MARGIN = PairColumn("margin")
WEIGHT = TokenColumn("w", default=0.25)
GOOD = {"prompt": "abc", "chosen": "de", "rejected": "f", "chosen_w": [], "rejected_w": []}
CHAT_PROMPT = [{"role": "user", "content": "hi there"}]


def prepared(tokenizer, *fields, extra=(WEIGHT,), columns=None, config=None):
    rows = rows_of(fields, name="pairs")
    return prepare(rows, tokenizer, config or EncodingConfig(), description="pairs", columns=columns, extra=extra)[0]


def weights(tokenizer, fields, side="chosen", **more):
    return prepared(tokenizer, fields, **more)[0][f"{side}:w"]


def problem(tokenizer, fields, **more):
    with pytest.raises(DataError) as caught:
        prepared(tokenizer, fields, **more)
    (line,) = str(caught.value).splitlines()[1:]
    return line.strip()


def chat_row(chosen, rejected="nothing", **more):
    def message(content):
        return {"role": "assistant", "content": content}

    return {
        "prompt": CHAT_PROMPT,
        "chosen": message(chosen),
        "rejected": [message(rejected)],
        "chosen_w": [],
        "rejected_w": [],
    } | more


class TestPairColumns:
    def test_the_number_is_a_column_of_the_data_set(self, plain):
        rows = [GOOD | {"margin": 2}, GOOD | {"margin": -0.5}]
        dataset = prepared(plain, *rows, extra=[MARGIN])
        assert dataset["pair:margin"][:] == [2.0, -0.5]
        assert dataset.features["pair:margin"] == datasets.Value("float32")
        assert "chosen:w" not in dataset.column_names

    @pytest.mark.parametrize("value", [True, None, "1", [1.0], math.nan, math.inf, 1e39, 10**400])
    def test_what_is_no_finite_number_is_refused(self, plain, value):
        line = problem(plain, GOOD | {"margin": value}, extra=[MARGIN])
        assert line.startswith("row 0 of pairs: field 'margin': found ")
        assert line.endswith("; give a finite number that float32 can hold")

    def test_a_missing_field_is_named_and_may_be_renamed(self, plain):
        line = problem(plain, GOOD, extra=[MARGIN])
        assert "field 'margin': found no such field, only chosen, chosen_w, prompt, rejected, rejected_w" in line
        assert line.endswith("with columns: {margin: NAME}")
        dataset = prepared(plain, GOOD | {"gap": 3}, extra=[MARGIN], columns={"margin": "gap"})
        assert dataset["pair:margin"][:] == [3.0]
        assert "field 'gap'" in problem(plain, GOOD, extra=[MARGIN], columns={"margin": "gap"})


class TestNumbers:
    def test_one_for_each_token_with_the_end_or_without(self, plain):
        with_end = prepared(plain, GOOD | {"chosen_w": [1, 2.5, 3], "rejected_w": [0, -1]})
        assert with_end[0]["chosen:w"] == [1, 2.5, 3]
        assert with_end[0]["rejected:w"] == [0, -1]
        assert with_end.features["chosen:w"] == datasets.List(datasets.Value("float32"))
        without = prepared(plain, GOOD | {"chosen_w": (1, 2.5), "rejected_w": [0]})
        assert without[0]["chosen:w"] == [1, 2.5, 0.25]
        assert without[0]["rejected:w"] == [0, 0.25]

    def test_an_end_that_the_tokenizer_writes_may_be_left_out_too(self, make_tokenizer):
        tokenizer = make_tokenizer(adds_bos=True, adds_eos=True)
        assert weights(tokenizer, GOOD | {"chosen_w": [1, 2]}) == [1, 2, 0.25]
        assert weights(tokenizer, GOOD | {"chosen_w": [1, 2, 3]}) == [1, 2, 3]

    @pytest.mark.parametrize("numbers", [[1], [1, 2, 3, 4]])
    def test_another_number_of_them_is_an_error_that_says_both(self, plain, numbers):
        line = problem(plain, GOOD | {"chosen_w": numbers})
        assert f"field 'chosen_w': found {len(numbers)} numbers for a response of 3 tokens with its end-of-" in line
        assert "give one for each token" in line

    def test_no_end_no_token_to_leave_out(self, make_tokenizer, chat):
        assert "2 tokens; give" in problem(make_tokenizer(eos=False), GOOD | {"chosen_w": [1]})
        assert "3 tokens; give" in problem(chat, chat_row("ab", chosen_w=[1, 2]))
        assert weights(chat, chat_row("ab", chosen_w=[1, 2, 3])) == [1, 2, 3]

    def test_the_name_in_an_error_is_that_of_the_source(self, plain):
        line = problem(plain, GOOD | {"mine": [1]}, columns={"chosen_w": "mine"})
        assert "field 'mine': found 1 numbers" in line

    def test_a_moved_boundary_counts_the_tokens_as_they_are(self, make_tokenizer):
        tokenizer = make_tokenizer(("c", "d"))
        assert weights(tokenizer, GOOD | {"chosen_w": [1, 2], "rejected_w": [5, 6]}, "chosen") == [1, 2, 0.25]
        assert weights(tokenizer, GOOD | {"chosen_w": [1, 2], "rejected_w": [5, 6]}, "rejected") == [5, 6, 0.25]

    def test_several_messages(self, chat):
        assistant = {"role": "assistant", "content": "a"}
        row = chat_row("x") | {"chosen": [assistant, {"role": "user", "content": "b"}, assistant]}
        size = len(prepared(chat, row)[0]["chosen_ids"])
        numbers = [float(n) for n in range(size)]
        assert weights(chat, row | {"chosen_w": numbers}) == numbers
        line = problem(chat, row | {"chosen_w": [{"start": 0, "end": 1}]})
        assert "field 'chosen_w': found spans for a response of 3 messages; give a number for each token" in line

    def test_a_slow_tokenizer_takes_numbers_but_no_spans(self):
        slow = ByT5Tokenizer()
        assert weights(slow, GOOD | {"chosen_w": [1, 2]}) == [1, 2, 0.25]
        with pytest.raises(DataError, match=r"row 0 of pairs: field 'rejected_w': found spans.*take a fast tokenizer"):
            prepared(slow, GOOD | {"rejected_w": [{"start": 0, "end": 1}]})


class TestSpans:
    def test_values_and_default(self, plain):
        row = GOOD | {"chosen": "hello you", "chosen_w": [{"start": 0, "end": 5, "value": 2}, {"start": 6, "end": 8}]}
        assert weights(plain, row) == [2] * 5 + [0.25] + [1] * 2 + [0.25] * 2
        assert weights(plain, row, "rejected") == [0.25] * 2

    def test_most_of_a_tokens_characters_decide_and_the_first_span_among_equals(self, make_tokenizer):
        tokenizer = make_tokenizer(("x", "y"), ("xy", "z"), ("a", "b"))
        for spans, value in [
            ([(0, 1, 2), (1, 3, 3)], 3),
            ([(0, 2, 2), (2, 3, 3)], 2),
            ([(0, 3, 2), (0, 3, 3)], 2),
            ([(2, 3, 3)], 3),
        ]:
            fields = [dict(zip(("start", "end", "value"), span, strict=True)) for span in spans]
            assert weights(tokenizer, GOOD | {"chosen": "xyz", "chosen_w": fields}) == [value, 0.25]
        tie = [{"start": 1, "end": 2, "value": 3}, {"start": 0, "end": 1, "value": 2}]
        assert weights(tokenizer, GOOD | {"chosen": "ab", "chosen_w": tie}) == [3, 0.25]

    def test_all_tokens_of_a_character_have_its_value(self, plain):
        row = GOOD | {"chosen": "aé😀b", "chosen_w": [{"start": 1, "end": 2, "value": 2}, {"start": 2, "end": 3}]}
        assert weights(plain, row) == [0.25, *[2] * 2, *[1] * 4, 0.25, 0.25]

    def test_spaces_that_a_tokenizer_trims_off_its_offsets(self, make_tokenizer):
        tokenizer = make_tokenizer(("Ġ", "Ġ"))
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        row = GOOD | {"chosen": "a   é b", "chosen_w": [{"start": 1, "end": 4, "value": 2}]}
        assert tokenizer("a   é", return_offsets_mapping=True)["offset_mapping"][1] == (3, 3)
        assert weights(tokenizer, row)[:3] == [0.25, 2, 2]

    def test_added_special_tokens_have_the_default(self, make_tokenizer):
        tokenizer = make_tokenizer(adds_bos=True, adds_eos=True)
        row = GOOD | {"prompt": "", "chosen_w": [{"start": 0, "end": 2}]}
        assert weights(tokenizer, row) == [1, 1, 0.25]

    def test_a_token_over_a_moved_boundary_has_the_value_of_its_characters_in_the_response(self, make_tokenizer):
        tokenizer = make_tokenizer(("b", "c"), ("bc", "d"))
        row = GOOD | {"chosen_w": [{"start": 0, "end": 1, "value": 7}], "rejected_w": [{"start": 0, "end": 1}]}
        assert prepared(tokenizer, row)[0]["prompt_ids"] == tokenizer("a").input_ids
        assert weights(tokenizer, row) == [7, 0.25, 0.25]
        assert weights(tokenizer, row, "rejected") == [0.25, 1, 0.25]

    def test_without_a_prompt_spans_count_from_the_beginning_of_the_field(self, plain):
        row = {"chosen": "one two yes", "rejected": "one two no", "chosen_w": [{"start": 8, "end": 11, "value": 3}]}
        row |= {"rejected_w": [{"start": 0, "end": 8, "value": 4}, {"start": 9, "end": 10, "value": 5}]}
        assert weights(plain, row) == [0.25, 3, 3, 3, 0.25]
        assert weights(plain, row, "rejected") == [4, 0.25, 5, 0.25]

    def test_repeated_text_is_not_mistaken_for_the_response(self, plain, chat):
        row = GOOD | {"prompt": "dede", "chosen_w": [{"start": 1, "end": 2}]}
        assert weights(plain, row) == [0.25, 1, 0.25]
        for content in ("hi there", "assistant", "s", ">"):
            row = chat_row(content, chosen_w=[{"start": 0, "end": len(content)}])
            assert weights(chat, row) == [1] * len(content) + [0.25]

    def test_a_template_without_a_generation_prompt(self, make_tokenizer):
        template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        tokenizer = make_tokenizer(chat_template=template)
        row = chat_row("as", chosen_w=[{"start": 0, "end": 2}])
        assert weights(tokenizer, row) == [0.25] * len("<assistant>") + [1, 1, 0.25]

    def test_a_template_whose_generation_prompt_the_response_repeats(self, make_tokenizer):
        template = (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<assistant><think>{% endif %}"
        )
        tokenizer = make_tokenizer(chat_template=template)
        row = chat_row("<think>ab", "<think>c", chosen_w=[{"start": 0, "end": 8, "value": 2}])
        assert weights(tokenizer, row) == [2, 0.25, 0.25]

    def test_a_template_that_strips(self, make_tokenizer):
        template = "{% for m in messages %}<{{ m.role }}>\n{{ m.content | trim }}\n</s>{% endfor %}"
        template += "{% if add_generation_prompt %}<assistant>\n{% endif %}"
        tokenizer = make_tokenizer(chat_template=template)
        spans = [{"start": 0, "end": 2, "value": 9}, {"start": 2, "end": 4}, {"start": 5, "end": 7, "value": 3}]
        assert weights(tokenizer, chat_row("  abcd ", chosen_w=spans)) == [1, 1, 0.25, 3, 0.25, 0.25]

    def test_a_template_that_changes_the_text(self, make_tokenizer):
        template = "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}</s>{% endfor %}"
        line = problem(make_tokenizer(chat_template=template), chat_row("ab", chosen_w=[{"start": 0, "end": 2}]))
        assert "field 'chosen_w': found spans for a text that the tokenizer's chat template changes" in line

    def test_conversations_that_repeat_the_prompt(self, chat):
        fields = chat_row("ab", "c")
        whole = {"chosen": [*CHAT_PROMPT, fields["chosen"]], "rejected": [*CHAT_PROMPT, *fields["rejected"]]}
        row = whole | {"chosen_w": [{"start": 1, "end": 2}], "rejected_w": []}
        assert weights(chat, row) == [0.25, 1, 0.25]

    def test_keys_that_arrow_fills_with_null(self, plain, tmp_path):
        row = GOOD | {"chosen_w": [{"start": 0, "end": 1, "value": None}, {"start": 1, "end": 2, "value": 0.5}]}
        datasets.Dataset.from_list([row]).to_parquet(tmp_path / "pairs.parquet")
        rows = read_rows(tmp_path / "pairs.parquet")
        dataset, _ = prepare(rows, plain, EncodingConfig(), description="pairs", extra=[WEIGHT])
        assert dataset[0]["chosen:w"] == [1, 0.5, 0.25]

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (
                [{"start": 0, "end": 3}],
                "found span 1 from 0 to 3 in a response of 2 characters; count characters from 0",
            ),
            ([{"start": 0, "end": 1}, {"start": 1, "end": 1}], "found span 2 from 1 to 1 in a"),
            ([{"start": -1, "end": 1}], "found span 1 from -1 to 1 in a"),
            ([{"start": 0.0, "end": 1}], "found the value 0.0 as 'start' of span 1; give a whole number"),
            ([{"start": 0}], "found nothing (null) as 'end' of span 1"),
            ([{"start": False, "end": 1}], "found the value false as 'start'"),
            ([{"start": 0, "end": 1, "value": "x"}], "found text as 'value' of span 1; give a finite number"),
            ([{"start": 0, "end": 1, "weight": 2}], "found the key 'weight' in span 1; keep to start, end and value"),
            (
                [{"start": 0, "end": 1}, 2],
                "found the value 2 as span 2; give a list of numbers, one for each token, or",
            ),
            ([1, "x"], "found text as number 2; give a finite number"),
            ([1, math.nan], "found the value NaN as number 2"),
            (None, "found nothing (null); give a list of numbers"),
            (3, "found the value 3; give a list of numbers"),
            ({"start": [0], "end": [1]}, "found an object; give a list"),
        ],
    )
    def test_what_is_neither_is_refused(self, plain, value, found):
        assert f"row 0 of pairs: field 'rejected_w': {found}" in problem(
            plain, GOOD | {"rejected": "fg", "rejected_w": value}
        )

    def test_a_bad_row_is_set_aside_with_the_others(self, plain, tmp_path):
        rows = rows_of([GOOD, {**GOOD, "chosen_w": [1]}, BadRow("x", "", "bad", "mend", {})], name="pairs")
        dataset, report = prepare(
            rows,
            plain,
            EncodingConfig(),
            description="pairs",
            extra=[WEIGHT],
            on_bad_rows="quarantine",
            quarantine=tmp_path / "bad.jsonl",
        )
        assert (len(dataset), report.quarantined) == (1, 2)
        assert json.loads((tmp_path / "bad.jsonl").read_text().splitlines()[0])["row"]["chosen_w"] == [1]


class TestTruncation:
    def test_values_are_cut_with_their_tokens(self, plain):
        row = GOOD | {"chosen": "defgh", "chosen_w": [1, 2, 3, 4, 5], "rejected_w": [{"start": 0, "end": 1}]}
        (pair,) = prepared(plain, row, config=EncodingConfig(max_length=4))
        assert len(pair["chosen_ids"]) == 3
        assert pair["chosen:w"] == [1, 2, 3]
        assert pair["rejected:w"] == [1, 0.25]

    def test_numbers_are_counted_before_the_cut(self, plain):
        row = GOOD | {"chosen": "defgh", "chosen_w": [1, 2, 3]}
        assert "3 numbers for a response of 6 tokens" in problem(plain, row, config=EncodingConfig(max_length=4))


class TestRenaming:
    def test_fields_of_extra_columns(self, plain):
        row = GOOD | {"left": [1, 2], "margin": 1}
        columns = {"chosen_w": "left"}
        assert weights(plain, row, columns=columns, extra=[WEIGHT, MARGIN]) == [1, 2, 0.25]

    def test_an_unknown_key_lists_what_can_be_renamed(self, plain):
        with pytest.raises(DataError) as caught:
            prepared(plain, GOOD, columns={"w": "x"}, extra=[MARGIN, WEIGHT])
        assert str(caught.value) == (
            "columns: no field 'w'; it renames only prompt, chosen, rejected, and, of extra columns, margin, chosen_w, "
            "rejected_w"
        )
        with pytest.raises(DataError, match=r"no field 'margin'; it renames only .*, as no extra column is asked for"):
            prepared(plain, GOOD, columns={"margin": "x"}, extra=[])


ALPHABET = "ab é漢😀\n"


@st.composite
def spanned(draw):
    """A text with something to say in it, and spans that do not overlap, each with a value of its own."""
    text = draw(st.text(ALPHABET, min_size=1, max_size=12).filter(str.strip))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = [
        {"start": start, "end": end, "value": number}
        for number, (start, end) in enumerate(pairwise(cuts), start=1)
        if draw(st.booleans())
    ]
    return text, draw(st.permutations(spans))


def by_character(text, spans):
    values = [0.25] * len(text)
    for span in spans:
        values[span["start"] : span["end"]] = [span["value"]] * (span["end"] - span["start"])
    return values


def by_byte(text, values):
    return [value for character, value in zip(text, values, strict=True) for _ in character.encode()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(case=spanned(), prompt=st.text(ALPHABET, max_size=6), room=st.integers(2, 40))
def test_a_byte_has_the_value_of_its_character(plain, case, prompt, room):
    text, spans = case
    row = {"prompt": prompt, "chosen": text, "rejected": "zz", "chosen_w": spans, "rejected_w": []}
    whole = [*by_byte(text, by_character(text, spans)), 0.25]
    (pair,) = prepared(plain, row, config=EncodingConfig(max_length=room))
    # The prompt ends where the responses part, and here that is its own end.
    assert pair["chosen:w"] == whole[: len(pair["chosen_ids"])]
    assert len(pair["chosen:w"]) == len(pair["chosen_ids"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(case=spanned())
def test_in_a_chat_too(chat, case):
    text, spans = case
    values = weights(chat, chat_row(text, "zz", chosen_w=spans))
    assert values == [*by_byte(text, by_character(text, spans)), 0.25]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(case=spanned())
def test_without_a_prompt_too(plain, case):
    text, spans = case
    row = {"chosen": text, "rejected": "zz", "chosen_w": spans, "rejected_w": []}
    assert weights(plain, row) == [*by_byte(text, by_character(text, spans)), 0.25]


def test_a_real_tokenizer(shared):
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chosen = " She smiled 😀 at Tom."
    words = {"smiled": 2, "😀": 3, "Tom": 4}
    spans = [
        {"start": chosen.index(word), "end": chosen.index(word) + len(word), "value": value}
        for word, value in words.items()
    ]
    row = {"prompt": "Lily saw a box.", "chosen": chosen, "rejected": " No.", "chosen_w": spans, "rejected_w": []}
    (pair,) = prepared(tokenizer, row)
    assert len(pair["chosen:w"]) == len(pair["chosen_ids"])
    assert pair["chosen:w"][-1] == 0.25
    for word, value in words.items():
        ids = [token for token, weight in zip(pair["chosen_ids"], pair["chosen:w"], strict=True) if weight == value]
        assert tokenizer.decode(ids).strip() == word
