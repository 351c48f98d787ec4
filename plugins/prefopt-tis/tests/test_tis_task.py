"""The scored task gives the pairs of another task the columns that this package's weightings read."""

from __future__ import annotations

import json

import pytest
from prefopt_tis.task import ScoredTask
from pydantic import ValidationError

from prefopt.data import DataError
from prefopt.tasks.base import HELD_OUT, TRAIN
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


def test_responses_beyond_the_usual_length_get_numbers_to_their_end(tmp_path, monkeypatch):
    """A run that cuts later than the default would read zeros there, as if both models agreed."""

    def ones(questions):
        return [([1.0] * len(question.chosen), [1.0] * len(question.rejected)) for question in questions]

    monkeypatch.setattr(ScoredTask, "_scorers", lambda *_: dict.fromkeys(COLUMNS, ones))
    inner = {**SMALL, "pairs": 4, "held_out": 2, "prompts": 2, "reference_steps": 1, "shortest": 1100, "longest": 1100}
    material = ScoredTask(task=inner).prepare(tmp_path, 0)
    for line in material.train.read_text().splitlines():
        row = json.loads(line)
        for column in COLUMNS:
            assert row[f"chosen_{column}"] == row[f"rejected_{column}"] == [1.0] * 1101


def test_pairs_that_have_a_column_already_are_refused_before_models_are_trained(made, tmp_path):
    _, _, material = made
    (first, *_) = map(json.loads, material.train.read_text().splitlines())
    row = {name: value for name, value in first.items() if name.partition("_")[2] not in COLUMNS}
    (tmp_path / TRAIN).write_text(json.dumps(row) + "\n")
    (tmp_path / HELD_OUT).write_text(json.dumps(row | {"rejected_guidance": [0, 0]}) + "\n")
    with pytest.raises(DataError, match="field 'rejected_guidance': found the field already"):
        ScoredTask(task=SMALL).annotate(tmp_path, material.model, 0)
    assert {path.name for path in tmp_path.iterdir()} == {TRAIN, HELD_OUT}


def test_one_scored_task_within_another_is_refused():
    with pytest.raises(ValidationError, match="'scored' inside it adds the column 'log_ratios' too; leave one out"):
        ScoredTask(task={"name": "scored", "task": SMALL})
