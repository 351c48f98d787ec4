"""`prefopt train --dry-run` checks what training checks, and writes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from prefopt.cli import app
from prefopt.training import RunFile, start


def written(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Path -> time of the last change and content; of a folder, no content."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths}


def run_file(folder: Path, model: str, rows: list[dict[str, str]], **changes: Any) -> Path:
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run = {
        "model": model,
        "data": {"train": str(folder / "pairs.jsonl"), "reference_cache": str(folder / "cache")},
        "objective": {"zoo": "tdpo2", "beta": 0.25},
        "training": {"output_dir": str(folder / "out"), "use_cpu": True, "max_steps": 1, "disable_tqdm": True},
    }
    for section, fields in changes.items():
        run[section] |= fields
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return file


def dry_run(file: Path, *options: str, exit_code: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["train", str(file), "--dry-run", *options])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_it_prints_run_data_and_plan_and_writes_nothing(
    tmp_path: Path, model_folder: str, rows: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"prompt": "the", "chosen": 3, "rejected": " bad"}
    file = run_file(tmp_path, model_folder, [*rows, bad], data={"on_bad_rows": "quarantine"})
    before = written(tmp_path)
    output = dry_run(file, "objective.beta=0.5", "training.report_to=tensorboard")
    assert written(tmp_path) == before
    assert "beta: 0.5" in output
    assert "tdpo2" not in output  # the run as it is resolved
    assert "the heaviest step" in output
    assert "1 steps of 8 pairs. Nothing was written or trained." in output
    assert "33 rows read, 32 pairs kept" in caplog.text
    assert "1 bad rows" in caplog.text


def test_a_run_that_is_there_stays_and_is_refused_as_in_training(
    tmp_path: Path, model_folder: str, rows: list[dict[str, str]]
) -> None:
    bad = {"prompt": "the", "chosen": 3, "rejected": " bad"}
    file = run_file(tmp_path, model_folder, [*rows, bad], data={"on_bad_rows": "quarantine"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.yaml").write_text("model: other\n")
    (tmp_path / "out" / "quarantine-train.jsonl").write_text("{}\n")
    before = written(tmp_path)
    assert "holds a run already" in dry_run(file, exit_code=2)
    dry_run(file, "--overwrite")
    assert written(tmp_path) == before
    (tmp_path / "out" / "run.yaml").unlink()
    assert "holds other rows than those that are set aside now" in dry_run(file, exit_code=2)


def test_folders_that_cannot_be_made_are_refused(
    tmp_path: Path, model_folder: str, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run_file(tmp_path, model_folder, rows)
    under = tmp_path / "pairs.jsonl" / "out"
    refused = dry_run(file, f"training.output_dir={under}", exit_code=2)
    assert f"{under} cannot be written to ({under.parent}: Not a directory)" in refused
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    assert f"out cannot be written to ({tmp_path}: Permission denied)" in dry_run(file, exit_code=2)


def test_it_looks_for_room_and_reads_the_beginning_of_a_stream(
    tmp_path: Path, model_folder: str, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = {"streaming": True, "reference_cache": None}
    file = run_file(tmp_path, model_folder, [{"prompt": "the", "chosen": 3, "rejected": " bad"}, *rows], data=streaming)
    assert "pairs.jsonl:1: field 'chosen'" in dry_run(file, exit_code=2)
    file = run_file(tmp_path, model_folder, rows, data=streaming)
    before = written(tmp_path)
    assert "No plan: the training data are a stream" in dry_run(file)
    assert written(tmp_path) == before
    monkeypatch.setattr("prefopt.training.disk.free_bytes", lambda folder: 10)
    assert "out: 10 bytes are free" in dry_run(file, exit_code=2)


def test_its_trainer_does_not_train(tmp_path: Path, model_folder: str, rows: list[dict[str, str]]) -> None:
    trainer = start(RunFile.load(run_file(tmp_path, model_folder, rows)), dry_run=True)
    with pytest.raises(ValueError, match="of a dry run"):
        trainer.train()
