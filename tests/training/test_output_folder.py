"""The output folder of a run: nothing in it is lost, mixed or written over without being asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from prefopt.training import RunFile, RunFileError, start, train


@pytest.fixture
def run_file(tmp_path: Path, model_folder: str, rows: list[dict[str, str]]) -> Path:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_steps": 1, "learning_rate": 1e-3}
    training = {**quiet, "output_dir": str(tmp_path / "run"), "max_steps": 2}
    path = tmp_path / "run.yaml"
    path.write_text(
        yaml.safe_dump({"model": model_folder, "data": str(data), "objective": "dpo", "training": training})
    )
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_is_resumed_or_overwritten_and_else_kept(run_file: Path, tmp_path: Path) -> None:
    folder = train(start(RunFile.load(run_file))).folder
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(RunFileError, match=r"output_dir: .*run holds a run already \(.*checkpoint-1.*--overwrite"):
        start(RunFile.load(run_file, ["training.seed=7"]))
    other = shutil.copytree(folder / "checkpoint-1", tmp_path / "other")
    with pytest.raises(RunFileError, match=r"other is not in it"):
        start(RunFile.load(run_file, [f"training.resume_from_checkpoint={other}"]))
    resuming = RunFile.load(run_file, ["training.resume_from_checkpoint=true", "training.max_steps=3"])
    with pytest.raises(RunFileError, match="which is resumed"):
        start(resuming, overwrite=True)
    # What stops the next run before its first step costs nothing of this one.
    start(RunFile.load(run_file, ["training.seed=7"]), overwrite=True)
    assert contents(folder) == before
    train(start(resuming))
    assert (folder / "checkpoint-3").is_dir()
    result = train(start(RunFile.load(run_file, ["training.save_strategy=no", "training.seed=7"]), overwrite=True))
    assert not list(folder.glob("checkpoint-*"))
    assert yaml.safe_load((folder / "run.yaml").read_text())["training"]["seed"] == 7
    assert (folder / "notes.txt").read_text() == "mine"
    assert len([entry for entry in result.log if "train_loss" in entry]) == 1
    with pytest.raises(RunFileError, match="it has no checkpoint to resume"):
        start(resuming)


def test_a_run_that_did_not_get_to_a_checkpoint_may_be_asked_to_resume(run_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.yaml").write_text("model: gpt2")
    with pytest.raises(RunFileError, match=r"holds a run already \(run.yaml\)"):
        start(RunFile.load(run_file))
    start(RunFile.load(run_file, ["training.resume_from_checkpoint=true"]))
    assert [path.name for path in folder.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("field", ["model", "model.reference", "model.tokenizer", "data", "data.eval"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_run_reads_is_never_its_output(run_file: Path, tmp_path: Path, field: str, overwrite: bool) -> None:
    target = tmp_path / "read"
    target.mkdir()
    run = RunFile.load(run_file, [f"{field}={target}", f"training.output_dir={tmp_path / 'a' / '..' / 'read'}"])
    with pytest.raises(RunFileError, match=r"output_dir: .*as well, and would be written over"):
        start(run, overwrite=overwrite)
    inside = target / ("quarantine-train.jsonl" if field.startswith("data") else "checkpoint-3")
    run = RunFile.load(run_file, [f"{field}={inside}", f"training.output_dir={target}"])
    with pytest.raises(RunFileError, match="under a name that the run writes itself"):
        start(run, overwrite=overwrite)
    assert not list(target.iterdir())


def test_nor_is_the_base_of_an_adapter_or_a_cache(run_file: Path, tmp_path: Path) -> None:
    adapter, base = tmp_path / "adapter", tmp_path / "base-model"
    adapter.mkdir()
    base.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base)})
    )
    with pytest.raises(RunFileError, match="the run's model's base as well"):
        start(RunFile.load(run_file, [f"model={adapter}", f"training.output_dir={base}"]))
    with pytest.raises(RunFileError, match="the run's reference cache as well"):
        start(RunFile.load(run_file, [f"data.reference_cache={base}", f"training.output_dir={base}"]))


@pytest.mark.parametrize(("name", "kind"), [("suite.yaml", "a comparison"), ("inspection.json", "an inspection")])
def test_a_run_is_not_mixed_with_other_results(run_file: Path, tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("")
    with pytest.raises(RunFileError, match=f"holds {kind} "):
        start(RunFile.load(run_file), overwrite=True)


def test_a_run_that_cannot_start_writes_nothing(run_file: Path, tmp_path: Path) -> None:
    start(RunFile.load(run_file))
    with pytest.raises(RunFileError, match=r"model\.reference: .*nowhere: there is no such folder"):
        start(RunFile.load(run_file, [f"model.reference={tmp_path / 'nowhere'}"]))
    assert not (tmp_path / "run" / "run.yaml").exists()
