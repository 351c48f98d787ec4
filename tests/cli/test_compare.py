"""prefopt compare and prefopt report, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from prefopt.comparison.folder import WRITTEN
from prefopt.report.plots import PLOTS
from tests.cli.test_cli import run
from tests.comparison.test_suite import SUITE


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(SUITE, sort_keys=False))
    return str(tmp_path / "suite.yaml")


@pytest.mark.slow
def test_from_a_suite_to_the_report(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    arguments = ("compare", suite, "training.max_steps=1", "--objective", "dpo", "--out", str(out))
    output = run(*arguments)
    assert "2 runs, 0 of them finished before" in output
    assert "2/2  dpo, seed 0: reward" in output
    assert "2 runs, 2 of them finished before" in run(*arguments)
    names = {path.name for path in out.iterdir() if path.suffix != ".lock"}
    assert names - {"material", "reference-cache"} <= set(WRITTEN)
    assert {f"{plot}.{suffix}" for plot in PLOTS for suffix in ("csv", "png")} <= set(WRITTEN)
    (out / "report.html").unlink()
    assert "dpo alone has a reward: " in run("report", str(out), "--text")
    document = json.loads(run("report", str(out), "--json"))
    assert {line["objective"] for line in document["values"]} == {"reference", "dpo"}
    assert document["verdict"]["standings"][0]["objective"] == "dpo"
    assert "give one of them" in run("report", str(out), "--json", "--text", exit_code=2)
    assert not (out / "report.html").exists()
    assert str(out / "report.html") in run("report", str(out))
    assert "dpo" in (out / "report.html").read_text()
    whole = (out / "runs.jsonl").read_bytes()
    (out / "runs.jsonl").write_bytes(b"\x00\xff\n" + whole.replace(b"reward", b"rewind", 1) + whole[:100])
    with monkeypatch.context() as patch:
        patch.setattr("warnings.filters", [("always", None, UserWarning, None, 0)])
        warned = run("report", str(out)).splitlines()
    assert [line.partition(" not a whole record")[0] for line in warned[:2]] == [
        f"warning: {out / 'runs.jsonl'}:{number}:" for number in (1, 2)
    ]
    assert len(warned) == 3
    (out / "suite.yaml").write_text("task: [")
    broken = run("report", str(out), exit_code=2)
    assert len(broken.splitlines()) == 1
    assert str(out / "suite.yaml") in broken


@pytest.mark.slow
def test_exit_codes(suite: str, tmp_path: Path) -> None:
    wrong = run("compare", suite, "seeds=[]", "--out", str(tmp_path / "out"), exit_code=2)
    assert f"{suite}: seeds: " in wrong
    assert not (tmp_path / "out").exists()
    assert "name the folder" in run("report", str(tmp_path), exit_code=2)
    change = "objectives.dpo.training.learning_rate=1e30"  # after whose first step no logit is a number
    failed = run("compare", suite, change, "--objective", "dpo", "--out", str(tmp_path / "out"), exit_code=1)
    assert "dpo, seed 0: failed, NonFinite" in failed
    assert "1 runs failed" in failed


def test_a_comparison_is_not_mixed_with_what_is_not_its_own(suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"weights")
    arguments = ("compare", suite, "training.max_steps=1", "--objective", "dpo", "--out", str(out))
    assert "holds a run or a model (model.safetensors)" in run(*arguments, exit_code=2)
    (out / "model.safetensors").rename(out / "suite.yaml")
    assert "out holds suite.yaml, and none is that of a comparison" in run(*arguments, exit_code=2)
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("suite.yaml", b"weights")]


@pytest.mark.slow
def test_another_suite_is_refused_and_one_with_more_runs_adds_them(suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("compare", suite, "--out", str(out))
    run(*arguments, "--objective", "dpo", "training.max_steps=1")
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.stat().st_size}
    refused = run(*arguments, "--objective", "simpo", "training.max_steps=1", exit_code=2)
    assert len(refused.splitlines()) == 1
    assert "out holds the comparison of another suite, on planted with dpo and 2 runs finished: objecti" in refused
    assert "training.max_steps is 1 there and 2 here" in run(*arguments, "--objective", "dpo", exit_code=2)
    # What stops the next comparison before its first run costs nothing of this one.
    stopped = run(*arguments, "objectives.dpo.weighting={name: column, column: nowhere}", "--overwrite", exit_code=2)
    assert "its pairs have" in stopped
    assert {path: path.read_bytes() for path in before} == before
    (out / "suite.yaml").write_text("task: [")
    assert "another suite, which cannot be read (" in run(*arguments, "training.max_steps=1", exit_code=2)
    (out / "suite.yaml").write_bytes(before[out / "suite.yaml"])
    assert "3 runs, 2 of them finished" in run(*arguments, "training.max_steps=1")
    run(*arguments, "--objective", "simpo", "training.max_steps=1", "--overwrite")
    records = map(json.loads, (out / "runs.jsonl").read_text().splitlines())
    assert {record["name"] for record in records} == {"reference", "simpo"}
    assert (out / "notes.txt").read_text() == "mine"


def test_one_call_at_a_time_has_a_folder(suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".comparison.lock"):
        for more in ((), ("--overwrite",)):
            refused = run("compare", suite, "--out", str(out), *more, exit_code=2)
            assert len(refused.splitlines()) == 1
            assert "another call carries out a comparison there; wait until it ends, or end it" in refused
    assert {path.suffix for path in out.iterdir()} <= {".lock"}


def test_a_launcher_of_several_processes_is_refused_before_the_suite_is_read(
    suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start one, without the launcher: it spreads the runs itself" in run("compare", suite, exit_code=2)


def test_an_engine_that_cannot_be_used_is_a_line(suite: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("name: slurm\njobs: 0\n")
    for given, line in {
        "rya": "rya: no engine named 'rya'. Did you mean 'ray'? Engines: local, ray, slurm; or a YAML file",
        str(tmp_path / "no.yaml"): "no.yaml: not a readable engine: ",
        str(file): f"{file}: jobs: at least 1 is needed, got 0",
    }.items():
        assert line in run("compare", suite, "--engine", given, exit_code=2)
    refused = run("compare", suite, "--engine", "ray", "--processes", "2", exit_code=2)
    assert "ray: processes: the engine ray has none, which the engine local has; leave it out" in refused


@pytest.mark.parametrize("name", ["report.html", "tensorboard", "curves.png"])
def test_files_that_no_comparison_wrote_are_not_written_over(name: str, suite: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    for more in ((), ("--overwrite",)):
        refused = run("compare", suite, "--out", str(tmp_path / "out"), *more, exit_code=2)
        assert f"out holds {name}, and none is that of a comparison" in refused
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [(name, "mine")]
