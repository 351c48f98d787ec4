"""Rows that several processes prepare: the same data set, report, quarantine file and errors as one prepares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from prefopt.columns import PairColumn, TokenColumn
from prefopt.data import DataError, EncodingConfig, parallel, prepare, rows_of
from prefopt.data.parallel import mapping

EXTRA = (PairColumn("margin"), TokenColumn("part"))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_CHUNK", 3)


def made_rows(number: int = 40) -> list[dict[str, Any]]:
    words = "the film was good bad fine dull plot".split()
    rows: list[dict[str, Any]] = []
    for i in range(number):
        row = {
            "prompt": words[i % 8],
            "chosen": f" {words[i % 5]} good",
            "rejected": f" {' '.join(words[: i % 8])} bad",
        }
        rows.append(
            row | {"margin": i, "chosen_part": [], "rejected_part": [{"start": 0, "end": 2}], f"more{i % 3}": "x"}
        )
    rows[7]["chosen"] = 7
    rows[11]["rejected"] = rows[11]["chosen"]
    rows[23]["margin"] = None
    return rows


def test_the_same_whatever_their_number(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    made = []
    for processes in (None, 3):
        file = tmp_path / f"{processes}.jsonl"
        config = EncodingConfig(max_length=9)
        options: dict[str, Any] = {"extra": EXTRA, "on_bad_rows": "quarantine", "quarantine": file}
        rows = rows_of(made_rows(), name="made")
        dataset, report = prepare(rows, tokenizer, config, description="made", num_proc=processes, **options)
        made.append((dataset.to_list(), report, list(report.left_out.items()), file.read_text()))
    assert made[0] == made[1]
    assert made[0][1].quarantined == 3
    with pytest.raises(DataError) as one:
        prepare(rows_of(made_rows(), name="made"), tokenizer, EncodingConfig(), description="made")
    with pytest.raises(DataError) as several:
        prepare(rows_of(made_rows(), name="made"), tokenizer, EncodingConfig(), description="made", num_proc=2)
    assert str(one.value) == str(several.value)
    assert "row 7 of made: field 'chosen': " in str(several.value)


def halve(number: int) -> int:
    if number == 17:
        raise DataError("17 is odd")
    if number == 99:
        os._exit(1)
    return number // 2


def numbers(last: int) -> Iterator[int]:
    yield from range(last)
    raise DataError("the rest cannot be read")


def test_errors_come_where_they_would_in_one_process() -> None:
    for processes in (1, 2):
        results = []
        with pytest.raises(DataError, match="the rest cannot be read"), mapping(halve, processes) as halved:
            results.extend(halved(numbers(8)))
        assert results == [(number, number // 2) for number in range(8)]
        with pytest.raises(DataError, match="17 is odd"), mapping(halve, processes) as halved:
            list(halved(numbers(19)))


def test_a_process_that_dies_and_a_row_that_cannot_be_sent() -> None:
    with pytest.raises(DataError, match="a process that prepares rows has died"), mapping(halve, 2) as halved:
        list(halved(iter([99])))
    with pytest.raises(DataError, match="a row cannot be sent to another process"), mapping(type, 2) as kinds:
        list(kinds(iter([lambda: None])))
