"""The scored task gives the pairs of another task the columns that this package's weightings read."""

from __future__ import annotations

import json

import pytest
from prefopt_tis.task import ScoredTask

from prefopt.tasks.conformance import check_task

SMALL = {"name": "planted", "pairs": 24, "held_out": 6, "prompts": 4, "reference_steps": 20}
COLUMNS = ("log_ratios", "guidance", "likelihoods")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    task = ScoredTask(task=SMALL, batch_size=4)
    return task, check_task(task, folder), task.prepare(folder / "first", 0)


def test_the_task_conforms_and_measures_what_its_inner_task_does(made):
    task, evaluation, _ = made
    assert task.headline == "reward"
    assert {"reward", "sequence_kl"} <= evaluation.values.keys()


def test_every_token_of_both_files_gets_its_numbers(made):
    _, _, material = made
    for path in (material.train, material.held_out):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert {
            len(row[f"{side}_{column}"]) for row in rows for side in ("chosen", "rejected") for column in COLUMNS
        } == {25}
        assert all(0 <= number <= 1 for row in rows for number in row["chosen_likelihoods"])
    # pi+ has learned to prefer what is chosen, and pi- what is rejected.
    rows = [json.loads(line) for line in material.train.read_text().splitlines()]
    margins = [sum(row["chosen_log_ratios"]) - sum(row["rejected_log_ratios"]) for row in rows]
    assert sum(margins) / len(margins) > 0.5
    guides = [sum(row["chosen_guidance"]) - sum(row["rejected_guidance"]) for row in rows]
    assert 0 < sum(guides) < sum(margins)


def test_nothing_of_the_models_is_left(made):
    _, _, material = made
    names = {path.name for path in material.folder.iterdir()}
    assert names == {"train.jsonl", "held-out.jsonl", "prompts.jsonl", "reference", "material.json"}
