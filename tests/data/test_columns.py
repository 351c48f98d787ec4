"""Extra columns: a number for the pair, and numbers for the tokens of the responses."""

from __future__ import annotations

import json
import math

import datasets
import pytest
from transformers import ByT5Tokenizer

from prefopt.columns import PairColumn, TokenColumn
from prefopt.data import BadRow, DataError, EncodingConfig, prepare, rows_of
from tests.marked import GOOD, WEIGHT, chat_row, prepared, problem, weights

MARGIN = PairColumn("margin")


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
        assert line.endswith("with columns: {margin: NAME} (--column margin=NAME of data check and inspect)")
        dataset = prepared(plain, GOOD | {"gap": 3}, extra=[MARGIN], columns={"margin": "gap"})
        assert dataset["pair:margin"][:] == [3.0]
        assert "field 'gap'" in problem(plain, GOOD, extra=[MARGIN], columns={"margin": "gap"})


class TestLimits:
    SCORES = (PairColumn("rejected_score"), PairColumn("chosen_score", at_least="rejected_score"))

    def test_a_number_below_another_field_of_its_row(self, plain):
        row = GOOD | {"best": 1.5, "rejected_score": 2}
        line = problem(plain, row, extra=self.SCORES, columns={"chosen_score": "best"})
        assert "field 'best': found 1.5, less than 'rejected_score'; give a number of at least 2, or" in line
        equal = prepared(plain, row | {"best": 2}, extra=self.SCORES, columns={"chosen_score": "best"})
        assert equal["pair:chosen_score"][:] == [2.0]

    def test_a_number_below_the_limit(self, plain):
        line = problem(plain, GOOD | {"trust": -0.25}, extra=[PairColumn("trust", at_least=0.0)])
        assert "field 'trust': found -0.25; give a number of at least 0, or remove the row" in line

    @pytest.mark.parametrize("values", [[1, -2, 3], [{"start": 0, "end": 1, "value": -2}]])
    def test_a_tokens_number_below_the_limit(self, plain, values):
        column = TokenColumn(WEIGHT.name, at_least=0.0)
        assert "field 'chosen_w': found -2; give a number" in problem(
            plain, GOOD | {"chosen_w": values}, extra=[column]
        )
        assert prepared(plain, GOOD | {"rejected_w": []}, extra=[column])[0]["rejected:w"] == [0, 0]

    def test_a_tokens_number_above_the_limit_or_not_whole(self, plain):
        column = TokenColumn(WEIGHT.name, at_least=-1.0, at_most=1.0, whole=True)
        above = problem(plain, GOOD | {"chosen_w": [0, 2, 1]}, extra=[column])
        assert "field 'chosen_w': found 2; give a number of at most 1, or remove the row" in above
        spans = [{"start": 0, "end": 1, "value": 1}, {"start": 1, "end": 2, "value": 0.5}]
        broken = problem(plain, GOOD | {"chosen_w": spans}, extra=[column])
        assert "field 'chosen_w': found 0.5; give whole numbers" in broken
        assert prepared(plain, GOOD | {"chosen_w": [-1, 0, 1]}, extra=[column])[0]["chosen:w"] == [-1, 0, 1]


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


class TestTokenColumns:
    @pytest.mark.parametrize(
        ("value", "problem_text"),
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
    def test_what_is_neither_is_refused(self, plain, value, problem_text):
        assert f"row 0 of pairs: field 'rejected_w': {problem_text}" in problem(
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
            "columns: no field 'w'; it renames only prompt, chosen, rejected, system, instruction, input, tools, "
            "documents, chat_template_kwargs, and, of extra columns, margin, chosen_w, rejected_w"
        )
        with pytest.raises(DataError, match=r"no field 'margin'; it renames only .*, as no extra column is asked for"):
            prepared(plain, GOOD, columns={"margin": "x"}, extra=[])
