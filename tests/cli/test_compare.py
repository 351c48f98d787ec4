"""prefopt compare and prefopt report, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import run
from tests.comparison.test_suite import SUITE


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(SUITE, sort_keys=False))
    return str(tmp_path / "suite.yaml")


def test_from_a_suite_to_the_report(suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("compare", suite, "training.max_steps=1", "--objective", "dpo", "--out", str(out))
    output = run(*arguments)
    assert "2 runs, 0 of them finished before" in output
    assert "2/2  dpo, seed 0: reward" in output
    assert "2 runs, 2 of them finished before" in run(*arguments)
    (out / "report.html").unlink()
    assert "dpo alone has a reward: " in run("report", str(out), "--text")
    document = json.loads(run("report", str(out), "--json"))
    assert {line["objective"] for line in document["values"]} == {"reference", "dpo"}
    assert document["verdict"]["standings"][0]["objective"] == "dpo"
    assert "give one of them" in run("report", str(out), "--json", "--text", exit_code=2)
    assert not (out / "report.html").exists()
    assert str(out / "report.html") in run("report", str(out))
    assert "dpo" in (out / "report.html").read_text()


def test_exit_codes(suite: str, tmp_path: Path) -> None:
    wrong = run("compare", suite, "seeds=[]", "--out", str(tmp_path / "out"), exit_code=2)
    assert f"{suite}: seeds: " in wrong
    assert not (tmp_path / "out").exists()
    assert "name the folder" in run("report", str(tmp_path), exit_code=2)
    # What the schedule makes of its arguments is found out when the run begins.
    change = "objectives.dpo.training.lr_scheduler_kwargs={slope: 2}"
    failed = run("compare", suite, change, "--objective", "dpo", "--out", str(tmp_path / "out"), exit_code=1)
    assert "dpo, seed 0: failed, TypeError: " in failed
    assert "1 runs failed" in failed


def test_a_comparison_is_not_mixed_with_what_is_not_its_own(suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"weights")
    arguments = ("compare", suite, "training.max_steps=1", "--objective", "dpo", "--out", str(out))
    assert "holds a run or a model (model.safetensors)" in run(*arguments, exit_code=2)
    (out / "model.safetensors").rename(out / "suite.yaml")
    assert "is not that of a comparison" in run(*arguments, exit_code=2)
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("suite.yaml", b"weights")]
