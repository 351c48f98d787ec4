"""Pairs of a stream: encoded as they come, the same as those of a prepared data set, in flat memory."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from prefopt.data import (
    BadRow,
    DataError,
    EncodingConfig,
    PairStream,
    RowEncoder,
    SourceRow,
    prepare,
    rows_of,
    shuffled,
)

ROWS: list[dict[str, Any]] = [
    {"prompt": "the film", "chosen": f" {'good ' * (i % 4)}fine", "rejected": " bad", "spare": i} for i in range(9)
]


@pytest.fixture
def pair_stream(tokenizer: PreTrainedTokenizerFast) -> Any:
    def make(rows: Any = ROWS, *, max_length: int = 7, **options: Any) -> PairStream:
        encoder = RowEncoder(tokenizer, EncodingConfig(max_length=max_length, on_too_long="drop"), {}, ())
        passes = rows if callable(rows) else lambda number: rows_of(rows, name="made")
        return PairStream(passes, encoder, description="made", **options)

    return make


def test_the_same_pairs_and_report_as_a_prepared_data_set(pair_stream: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    config = EncodingConfig(max_length=6, on_too_long="drop")
    dataset, report = prepare(rows_of(ROWS, name="made"), tokenizer, config, description="made")
    pairs = pair_stream(max_length=6)
    first = list(islice(pairs, len(dataset)))
    assert first == dataset.to_list()
    again = list(islice(pairs, 2 * len(dataset)))  # an iteration begins with the first row, and goes on with it
    assert again[: len(dataset)] == first
    assert [pair["row"] for pair in again] == list(range(len(again)))
    assert [{**pair, "row": 0} for pair in again[len(dataset) :]] == [{**pair, "row": 0} for pair in first]
    once = pair_stream(lambda number: rows_of(ROWS, name="made") if number == 0 else iter([]), max_length=6)
    with pytest.raises(DataError, match="made: it ends after 7 pairs and cannot be read again, and training takes"):
        list(once)
    assert once.report() == report
    assert (report.rows, report.dropped_too_long) == (9, 2)
    assert once.report().left_out == {"column 'spare', which has no text": 7}


def test_a_row_that_cannot_be_used(pair_stream: Any, tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"prompt": "the"}, *ROWS[2:4], {"chosen": 7}]
    pairs = iter(pair_stream(rows))
    assert [next(pairs)["row"], next(pairs)["row"]] == [0, 1]
    with pytest.raises(DataError, match="made: row 2 of made: field 'chosen': found no such field"):
        next(pairs)
    file = tmp_path / "out" / "quarantine.jsonl"
    kept = pair_stream(rows, quarantine=file)
    assert [pair["where"] for pair in islice(kept, 6)][3:5] == ["row 4 of made", "row 0 of made"]
    assert [json.loads(line)["where"] for line in file.read_text().splitlines()] == ["row 2 of made", "row 5 of made"]
    assert kept.report().quarantined == 3 - 1

    before = file.read_bytes()
    file.write_bytes(before[:-5])  # of a run that was killed, and is resumed
    list(islice(pair_stream(rows, quarantine=file), 6))
    assert file.read_bytes() == before
    other = pair_stream([{"prompt": 3}, *ROWS], quarantine=file)
    with pytest.raises(DataError, match="holds other rows than those that are set aside now; move it, or"):
        next(iter(other))
    assert file.read_bytes() == before
    list(islice(pair_stream([{"prompt": 3}, *ROWS], quarantine=file, overwrite=True), 2))
    assert len(file.read_text().splitlines()) == 1
    list(islice(pair_stream(rows, quarantine=tmp_path / "others", is_main=False), 6))
    assert not (tmp_path / "others").exists()


def test_no_usable_pair(pair_stream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="made: no usable pair in 0 rows; it is empty"):
        next(iter(pair_stream([])))
    with pytest.raises(DataError, match="made: no usable pair in 1 rows; 1 are for"):
        next(iter(pair_stream([{"prompt": 1}], quarantine=tmp_path / "a")))
    monkeypatch.setattr("prefopt.data.stream._PATIENCE", 50)
    endless = pair_stream(
        lambda number: rows_of(({"prompt": 1} for _ in count()), name="made"), quarantine=tmp_path / "b"
    )
    with pytest.raises(DataError, match="none of 50 rows is a usable pair; mend the data"):
        next(iter(endless))


def test_each_pass_may_have_an_order_of_its_own(pair_stream: Any) -> None:
    passes: list[int] = []

    def rows(number: int) -> Iterator[SourceRow | BadRow]:
        passes.append(number)
        return shuffled(rows_of(ROWS, name="made"), 4, f"7 {number}")

    orders = [pair["where"] for pair in islice(pair_stream(rows), 18)]
    assert passes == [0, 1]
    assert sorted(orders[:9]) == sorted(orders[9:]) == [f"row {i} of made" for i in range(9)]
    assert orders[:9] != orders[9:]
    assert orders == [pair["where"] for pair in islice(pair_stream(rows), 18)]


def test_shuffled_draws_from_the_next_ones() -> None:
    order = list(shuffled(range(1000), 50, "a"))
    assert sorted(order) == list(range(1000))
    assert all(number <= position + 50 for position, number in enumerate(order))
    assert order != list(shuffled(range(1000), 50, "b"))
    assert list(shuffled(range(5), 1, "a")) == list(range(5))
    assert sorted(shuffled(range(3), 10, "a")) == [0, 1, 2]


def test_digests_and_sources_of_pairs_that_were_read(pair_stream: Any) -> None:
    first, other = pair_stream(), pair_stream([*ROWS[:4], *ROWS[5:]])
    list(islice(first, 7))
    list(islice(other, 7))
    assert first.digest(4) == other.digest(4) != first.digest(5) != other.digest(5)
    assert (first.digest(0), first.digest(8)) == ("", None)
    assert first.sources([2, 99]) == ["row 2 of made", "pair 99 of made"]
    other.expect(4, first.digest(4), RuntimeError("as it was"))
    assert len(list(islice(other, 9))) == 9
    other.expect(5, first.digest(5), RuntimeError("another stream"))
    with pytest.raises(RuntimeError, match="another stream"):
        list(islice(other, 9))


@pytest.mark.long
def test_memory_is_flat(pair_stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefopt.data.stream._RECENT", 100)

    def endless(number: int) -> Iterator[SourceRow | BadRow]:
        return shuffled(rows_of((ROWS[i % 9] for i in count()), name="made"), 100, "7")

    pairs = iter(pair_stream(endless))
    list(islice(pairs, 500))  # what is made once
    sizes = []
    tracemalloc.start()
    for _ in range(2):
        list(islice(pairs, 1500))
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] < sizes[0] + 20_000, "of 1,500 pairs with 400 bytes each"
