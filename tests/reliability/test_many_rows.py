"""A million rows are prepared in the memory that a tenth of them takes."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from prefopt.data import EncodingConfig, prepare, read_rows
from prefopt.data.growing import IN_MEMORY
from tests.conftest import WORDS
from tests.reliability.figures import record
from tests.reliability.memory import watched


@pytest.mark.reliability
def test_a_million_rows(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    draw, file = random.Random(0), tmp_path / "rows.jsonl"

    def words(number: int) -> str:
        return " ".join(draw.choices(WORDS, k=number))

    with file.open("w", encoding="utf-8") as lines:
        for _ in range(1_000_000):
            row = {"prompt": words(4), "chosen": f" {words(6)}", "rejected": f" {words(5)}"}
            lines.write(json.dumps(row) + "\n")
    for number in (1_000, 100_000, 1_000_000):  # the first is for what the libraries make once
        with file.open(encoding="utf-8") as lines, (tmp_path / f"{number}.jsonl").open("w", encoding="utf-8") as part:
            part.writelines(line for line, _ in zip(lines, range(number), strict=False))
        began = time.monotonic()
        with watched() as memory:
            dataset, report = prepare(
                read_rows(tmp_path / f"{number}.jsonl"), tokenizer, EncodingConfig(), description="rows"
            )
        seconds = time.monotonic() - began
        assert len(dataset) == report.rows == number
        grown = memory[1] - memory[0]
        del dataset
        if number > 1_000:
            record(
                "rows",
                f"`prepare` of {number:,} short rows of JSON lines",
                **{
                    "MiB of the file": round((tmp_path / f"{number}.jsonl").stat().st_size / 2**20),
                    "rows a second": round(number / seconds),
                    "MiB of memory added, at most": round(grown / 2**20),
                },
            )
        assert grown < 2 * IN_MEMORY
