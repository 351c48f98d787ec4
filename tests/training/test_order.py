"""Which pairs a step has: the same on any number of processes, and in a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import run_module

SCRIPT = "tests.training.ordered_processes"


@pytest.mark.outside
def test_a_step_has_the_same_pairs_on_any_number_of_processes_and_after_a_checkpoint(
    model_folder: str, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    data = tmp_path / "rows.json"
    data.write_text(json.dumps([row | {"chosen": row["chosen"] * (1 + i % 5)} for i, row in enumerate(rows[:24])]))
    steps = {}
    for processes, wrote in ((2, 2), (1, 2)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        run_module(SCRIPT, processes, model_folder, data, folder, processes, tmp_path / str(wrote))
        steps[processes] = json.loads((folder / "steps.json").read_text())
    for order, of_one in steps[1].items():
        whole = of_one["whole"]
        assert [len(pairs) for pairs in whole.values()] == 9 * [8], order
        epochs = [[whole[str(3 * epoch + step)] for step in range(3)] for epoch in range(3)]
        for epoch in epochs:  # each pair once
            assert sorted(pair for pairs in epoch for pair in pairs) == list(range(24)), order
        assert (epochs[0] == epochs[1]) == (order == "sequential")
        assert steps[2][order]["whole"] == whole, order
        for processes in (1, 2):  # that go on from the checkpoint of two processes, in the middle of the second epoch
            rest = {step: pairs for step, pairs in whole.items() if int(step) >= 4}
            assert steps[processes][order]["rest"] == rest, (order, processes)
