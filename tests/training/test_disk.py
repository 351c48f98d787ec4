"""A disk that is full, or will be: one line with the path, before training where it can be known."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prefopt import zoo
from prefopt.training import PreferenceTrainer, disk
from prefopt.training.disk import SaveError
from tests.training.test_trainer import config

Make = Callable[..., PreferenceTrainer]


@pytest.fixture
def make(model_folder: str, rows: list[dict[str, str]], out: str) -> Make:
    def trainer(**changes: Any) -> PreferenceTrainer:
        args = config(out, **{"max_steps": 2, "save_strategy": "steps", "save_steps": 1} | changes)
        return PreferenceTrainer(model_folder, objective=zoo.dpo(), args=args, train_dataset=rows)

    return trainer


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond that many bytes, as `ulimit -f` has it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def policy_bytes(trainer: PreferenceTrainer) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in trainer.model.policy.parameters())


def test_a_disk_without_room_for_a_checkpoint_is_refused_before_the_first_step(
    make: Make, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make()
    size = policy_bytes(trainer)
    monkeypatch.setattr(disk, "free_bytes", lambda _: 2 * size - 1)
    with pytest.raises(SaveError, match=f"{2 * size - 1:,} bytes are free, and .* a checkpoint take {2 * size:,}"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert not Path(out).exists() or not list(Path(out).iterdir())


def test_a_limit_below_the_policys_file_is_refused_before_the_first_step(make: Make) -> None:
    trainer = make()
    size = policy_bytes(trainer)
    with largest_file(size - 1), pytest.raises(SaveError, match=rf"a file may have {size - 1:,} bytes \(ulimit -f\)"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.slow
def test_less_room_than_all_checkpoints_take_is_a_warning(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(max_steps=3, save_total_limit=1)
    planned = policy_bytes(trainer) * (1 + 2 * 3)  # one that is kept and one that is being written, of policy and Adam
    monkeypatch.setattr(disk, "free_bytes", lambda _: planned - 1)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert f"the policy and 2 checkpoints of an optimizer such as Adam take some {planned:,}" in caplog.text
    caplog.clear()
    monkeypatch.setattr(disk, "free_bytes", lambda _: planned)
    make(max_steps=3, save_total_limit=1, overwrite_output_dir=True).train()
    assert "bytes are free" not in caplog.text


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_leaves_what_was_saved_and_the_policy(make: Make, out: str) -> None:
    """The optimizer's state is the largest file, and the limit is between it and the policy."""
    trainer = make(max_steps=1)
    trainer.train()
    before = {path: path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}
    trainer = make(max_steps=2)
    with (
        largest_file(int(1.5 * policy_bytes(trainer))),
        pytest.raises(
            SaveError, match=r"run: the checkpoint of step 2 could not be written \(.*; the policy is in "
        ) as caught,
    ):
        trainer.train(resume_from_checkpoint=True)
    assert "\n" not in str(caught.value)
    kept = Path(str(caught.value).rpartition("the policy is in ")[2])
    assert torch.equal(AutoModelForCausalLM.from_pretrained(kept).lm_head.weight, trainer.model.policy.lm_head.weight)
    assert {path: path.read_bytes() for path in before} == before
    assert [path.name for path in Path(out).glob("checkpoint-*")] == ["checkpoint-1"]
    make(max_steps=2).train(resume_from_checkpoint=True)


def test_a_policy_that_fits_nowhere_is_said_to_be_nowhere(make: Make, out: str) -> None:
    trainer = make(save_strategy="no")
    trainer.train()
    with largest_file(1000), pytest.raises(SaveError, match=r"the policy could not be written .*no other folder took"):
        trainer.save_model()
    assert not list(Path(out).rglob("*"))
