"""What an objective reads of the pairs, the task must write."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefopt.comparison.execute import train_and_measure
from prefopt.comparison.suite import Suite
from prefopt.data import DataError
from prefopt.training import PreferenceTrainer
from tests.comparison.test_suite import TASK


def test_an_objective_whose_columns_the_task_lacks_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"name": "planted", **TASK, "reference_steps": 1}
    suite = Suite.model_validate({"task": task, "objectives": {"odpo": "odpo"}, "seeds": [0], "controls": False})
    run = next(run for run in suite.runs() if run.objective is not None)
    monkeypatch.setattr(PreferenceTrainer, "train", None)
    with pytest.raises(
        DataError, match=r"'planted': its pairs have chosen, .*prompt.*, but preference loss 'offset'"
    ) as e:
        train_and_measure(run, tmp_path)
    assert "reads score_chosen, score_rejected; say which field holds it under `training.columns`" in str(e.value)
