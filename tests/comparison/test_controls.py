"""Controls: which runs have one, and what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefopt import ObjectiveConfig, zoo
from prefopt.comparison.controls import controls, masked, unmasked
from prefopt.comparison.results import Results
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import Suite
from prefopt.divergences import ForwardKL
from prefopt.objective_config import DivergenceTerm
from prefopt.report import report

pytestmark = pytest.mark.slow

TASK = {"name": "planted", "pairs": 16, "held_out": 4, "prompts": 4, "shortest": 8, "longest": 8, "bearing": 0.3}
SPO = {"zoo": "sparsepo_token", "training": {"mask_learning_rate": 0.1}}
SUITE: dict[str, Any] = {
    "task": TASK | {"reference_steps": 2},
    "objectives": {"dpo": "dpo", "tdpo2": "tdpo2", "spo": SPO},
    "sweeps": {"objective.beta": [0.1, 1.0]},
    "seeds": [0],
    "training": {"max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "use_cpu": True},
}


def test_what_has_a_mask() -> None:
    assert not any(map(masked, (zoo.dpo(), zoo.tdpo1(), zoo.tdpo2(), zoo.simpo())))
    assert all(map(masked, (zoo.mapo(), zoo.sparsepo(), zoo.sparsepo_token(), zoo.ld_dpo())))


def test_without_its_mask_an_objective_keeps_its_strength() -> None:
    sparse = zoo.sparsepo(beta=0.4, shared=False)
    half = DivergenceTerm(measure=ForwardKL(), alpha=0.5)
    expected = ObjectiveConfig(beta=0.2, divergence=half, regularizers=sparse.regularizers)
    assert unmasked(sparse, 0.5, 0.25) == expected
    assert unmasked(zoo.mapo(beta=0.1), 0.5, 0.5) == zoo.tdpo1(beta=0.05)
    held = DivergenceTerm(measure=ForwardKL(), alpha=20, detach_chosen=True)
    token = zoo.sparsepo_token(beta=0.1)
    assert unmasked(token, 0.5, 1.0) == ObjectiveConfig(beta=0.05, divergence=held, regularizers=token.regularizers)


def test_each_masked_run_gets_its_control(tmp_path: Path) -> None:
    suite = Suite.model_validate(SUITE)
    assert compare(suite, tmp_path, console=Console(quiet=True)) == []
    records = RunLog(tmp_path / "runs.jsonl").records
    control_runs = list(controls(suite, records))
    assert [(run.name, dict(run.setting)) for run in control_runs] == [
        ("spo control", {"objective.beta": 0.1}),
        ("spo control", {"objective.beta": 1.0}),
    ]
    for run in control_runs:
        origin = next(other for other in suite.runs() if other.name == "spo" and other.setting == run.setting)
        curve = records[origin.key]["curves"]["weights/mean"]
        mean = sum(value for _, value in curve) / len(curve)
        assert mean != 1
        assert run.objective is not None
        assert origin.objective is not None
        assert run.objective.beta == pytest.approx(origin.objective.beta * mean)
        assert set(records[run.key]["values"]["mean_w"].values()) == {1.0}
        assert "mask_learning_rate" not in run.training
    results = Results.compute(suite, records)
    assert [row.name for row in results.rows if row.control] == ["spo control"] * 2
    assert {difference.name for difference in results.differences} == {"tdpo2", "spo"}
    # Carried out again, nothing is left to do; and the page is written with them.
    assert compare(suite, tmp_path, console=Console(quiet=True)) == []
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1 + 3 * 2 + 2
    assert "spo control" in report(tmp_path)[0].read_text()


def test_a_control_that_learns_keeps_its_rate() -> None:
    based = SPO | {"units": {"name": "state_baseline"}}
    suite = Suite.model_validate(SUITE | {"objectives": {"spo": SPO, "based": based}, "sweeps": {}})
    record: Any = {"error": None, "curves": {"weights/mean": [(1, 0.5)]}}
    rates = {run.name: run.training for run in controls(suite, {run.key: record for run in suite.runs()})}
    assert rates["based control"]["mask_learning_rate"] == 0.1
    assert "mask_learning_rate" not in rates["spo control"]


def test_a_suite_may_do_without() -> None:
    assert list(controls(Suite.model_validate(SUITE | {"controls": False}), {})) == []
    with pytest.raises(ValueError, match="'spo control' is what the control of 'spo' is called"):
        Suite.model_validate(SUITE | {"objectives": {"spo": "sparsepo", "spo control": "dpo"}})
