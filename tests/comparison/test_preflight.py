"""What is said before the first run: all mistakes at once, and how many runs there will be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefopt.comparison.run_log import RunLog
from prefopt.comparison.run_queue import RunQueue
from prefopt.comparison.runner import _controls_to_come, compare
from prefopt.comparison.suite import Suite, SuiteError

PAIR = {"prompt": "How?", "chosen": "So.", "rejected": "Not so."}


def suite_of(**task: Any) -> Suite:
    fields = {"name": "dialogue", "held_out": 2, "prompts": 1, **task}
    return Suite.model_validate({"task": fields, "objectives": {"dpo": "dpo"}, "seeds": [0, 1]})


def mistakes(suite: Suite, folder: Path) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        compare(suite, folder, console=Console(quiet=True), processes=1)
    assert not RunLog(folder / "runs.jsonl").records
    return str(caught.value).splitlines()


def test_three_mistakes_of_a_suite_over_own_pairs_are_three_lines_at_once(tmp_path: Path) -> None:
    model, data, held_out = (str(tmp_path / name) for name in ("model", "data.jsonl", "held-out.jsonl"))
    lines = mistakes(suite_of(model=model, data=data, held_out_data=held_out), tmp_path / "out")
    fields = ("model", "data.name", "held_out_data.name")
    assert [line.partition(":")[0] for line in lines] == [f"task.{field}" for field in fields]
    assert all("no such file or folder; it was looked for at" in line for line in lines)


def test_a_model_that_is_not_there_and_a_wrong_row_are_told_together(tmp_path: Path) -> None:
    rows = [PAIR | {"prompt": f"How {number}?"} for number in range(6)]
    rows[3] = {"prompt": "x", "chosen": 7, "rejected": "y"}
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = mistakes(suite_of(model="./no-model", data=str(data)), tmp_path / "out")
    assert lines[0].startswith("task.model: no such file or folder")
    assert "1 of 6 rows cannot be used" in lines[1]
    assert "data.jsonl:4" in lines[2]
    assert len(lines) == 3


def test_controls_are_counted_before_their_runs_are_finished(tmp_path: Path) -> None:
    objectives = {"dpo": "dpo", "sparsepo": "sparsepo"}
    suite = Suite.model_validate({"task": {"name": "planted"}, "objectives": objectives, "seeds": [0, 1]})
    grid = suite.runs()
    log = RunLog(tmp_path / "runs.jsonl")
    queue = RunQueue(log, lambda: grid, brings=lambda run: _controls_to_come(suite, run))
    assert queue.count() == (0, len(grid) + 2)
    assert len(grid) == 6
