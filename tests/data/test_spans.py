"""Values of tokens that rows give by spans of characters."""

from __future__ import annotations

from itertools import pairwise

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, processors
from transformers import AutoTokenizer

from prefopt.data import EncodingConfig, prepare, read_rows
from tests.marked import CHAT_PROMPT, GOOD, WEIGHT, chat_row, prepared, problem, weights


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


@pytest.mark.slow
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


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(case=spanned())
def test_in_a_chat_too(chat, case):
    text, spans = case
    values = weights(chat, chat_row(text, "zz", chosen_w=spans))
    assert values == [*by_byte(text, by_character(text, spans)), 0.25]


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(case=spanned())
def test_without_a_prompt_too(plain, case):
    text, spans = case
    spans_in_row = [span | {"start": span["start"] + 2, "end": span["end"] + 2} for span in spans]
    row = {"chosen": f"p {text}", "rejected": "p zz", "chosen_w": spans_in_row, "rejected_w": []}
    assert weights(plain, row) == [0.25, *by_byte(text, by_character(text, spans)), 0.25]


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
