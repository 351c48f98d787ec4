"""What has its name is whole: checkpoints and policies are written beside it, synced and renamed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.training import PreferenceTrainer
from prefopt.training.checkpoints import save_checkpoint
from prefopt.training.disk import SaveError
from prefopt.whole_files import UNFINISHED
from tests.training.test_trainer import config


@pytest.fixture
def trainer(model_folder: str, rows: list[dict[str, str]], out: str) -> Callable[..., PreferenceTrainer]:
    def make(**changes: Any) -> PreferenceTrainer:
        args = config(out, save_strategy="steps", save_steps=1, **changes)
        objective = zoo.build({"zoo": "sparsepo"})
        return PreferenceTrainer(model_folder, objective=objective, args=args, train_dataset=rows, eval_dataset=rows)

    return make


def fails(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("part", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_checkpoint_that_is_not_whole_has_no_name(
    trainer: Callable[..., PreferenceTrainer], out: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(max_steps=1)
    run.train()
    monkeypatch.setattr(run, part, fails)
    run.args.max_steps = 2
    with pytest.raises(SaveError, match=r"checkpoint of step 2 could not be written \(.*No space.*the policy is in"):
        run.train(resume_from_checkpoint=f"{out}/checkpoint-1")
    assert [path.name for path in Path(out).glob("[!r]*")] == ["checkpoint-1"]
    (kept,) = Path(out).glob("run-step-2-*")
    saved = AutoModelForCausalLM.from_pretrained(kept)
    assert torch.equal(saved.lm_head.weight, run.model.policy.lm_head.weight)


def test_what_a_killed_run_left_is_no_checkpoint(trainer: Callable[..., PreferenceTrainer], out: str) -> None:
    left = Path(out) / UNFINISHED / "checkpoint-9"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"")
    run = trainer(max_steps=1, resume_from_checkpoint="true")
    run.train()
    assert [path.name for path in Path(out).iterdir()] == ["checkpoint-1"]


def test_files_are_on_the_disk_before_the_checkpoint_has_its_name(
    trainer: Callable[..., PreferenceTrainer], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = set(), os.fsync

    def record(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if UNFINISHED in path.parts:
            assert not (Path(out) / "checkpoint-1").exists()
            synced.add(path.name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    trainer(max_steps=1).train()
    named = {name for name in synced if not name.endswith(".unfinished")}
    assert named == {path.name for path in (Path(out) / "checkpoint-1").rglob("*")} | {"checkpoint-1"}


@pytest.mark.slow
def test_the_best_checkpoint_is_known_by_its_name_and_kept(trainer: Callable[..., PreferenceTrainer], out: str) -> None:
    changes = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "save_total_limit": 1}
    run = trainer(max_steps=3, metric_for_best_model="rewards/margins", greater_is_better=False, **changes)
    run.train()
    assert run.state.best_model_checkpoint == f"{out}/checkpoint-1"
    assert [path.name for path in Path(out).iterdir()] == ["checkpoint-1"]
    state = json.loads((Path(out) / "checkpoint-1" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == f"{out}/checkpoint-1"
    saved = load_file(Path(out) / "checkpoint-1" / "model.safetensors")
    assert torch.equal(saved["lm_head.weight"], run.model.policy.lm_head.weight)


def test_a_policy_replaces_the_one_before_file_by_file(
    trainer: Callable[..., PreferenceTrainer], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(max_steps=1)
    run.train()
    folder = Path(out)
    (folder / "run.yaml").write_text("model: m")
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (folder / name).write_text("of an earlier save")
    run.save_model()
    assert not [*folder.glob("model-*"), *folder.glob("*.index.json"), *folder.glob(UNFINISHED)]
    assert (folder / "run.yaml").read_text() == "model: m"
    assert (folder / "checkpoint-1").is_dir()
    again = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(again.lm_head.weight, run.model.policy.lm_head.weight)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run.model.policy.lm_head.weight.data.zero_()
    monkeypatch.setattr(run.processing_class, "save_pretrained", fails)
    with pytest.raises(SaveError, match=r"the policy could not be written .*; no other folder took the policy"):
        run.save_model()
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_that_is_being_removed_has_no_name(
    trainer: Callable[..., PreferenceTrainer], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = []

    def record(folder: Path) -> None:
        if folder.is_dir() and any(folder.iterdir()):
            removed.append([path.name for path in folder.iterdir()])
            assert sorted(path.name for path in Path(out).glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
            fails()

    monkeypatch.setattr("prefopt.whole_files.remove", record)
    with pytest.raises(OSError, match="No space"):
        trainer(save_total_limit=2).train()
    assert removed == [["checkpoint-1"]]


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_gathered_head_that_is_the_embedding_too_is_saved_once(
    is_tied: bool, model_folder: str, tmp_path: Path
) -> None:
    def save(name: str, state: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        save_checkpoint(model, tmp_path / name, state, with_reference=True)
        assert load_file(tmp_path / name / "reference" / "model.safetensors").keys() == expected
        return load_file(tmp_path / name / "model.safetensors")

    shape = AutoConfig.from_pretrained(model_folder, tie_word_embeddings=is_tied)
    policy, reference = (AutoModelForCausalLM.from_config(shape) for _ in range(2))
    expected = set(policy.state_dict()) - ({"lm_head.weight"} if is_tied else set())
    model = PreferenceModel(policy, reference, zoo.dpo())
    whole = save("whole", None)
    gathered = save("gathered", {name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert whole.keys() == gathered.keys() == expected
    for name, tensor in whole.items():
        torch.testing.assert_close(gathered[name], tensor, rtol=0, atol=0)
