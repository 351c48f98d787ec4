"""TR-DPO: the reference follows the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from tests.forked import run_module
from tests.training.test_resume import Interrupt
from tests.training.test_trainer import config

SCRIPT = "tests.training.following_processes"

SYNC: dict[str, Any] = {"sync_ref_model": True, "ref_model_mixup_alpha": 0.25, "ref_model_sync_steps": 2}


class Keep(TrainerCallback):
    """The policy's weights after each step."""

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.seen.append([p.detach().clone() for p in model.policy.parameters()])


@pytest.mark.slow
def test_the_reference_is_drawn_along(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    trainer = PreferenceTrainer(
        model_folder, objective=zoo.dpo(), args=config(out, max_steps=3, **SYNC), train_dataset=rows
    )
    start = [p.detach().clone() for p in trainer.model.reference.parameters()]
    trainer.train()
    # Steps 1 and 2 see the reference of the start, and step 2 is followed by the one update.
    by_hand = PreferenceTrainer(model_folder, objective=zoo.dpo(), args=config(out, max_steps=3), train_dataset=rows)
    keep = Keep()
    by_hand.add_callback(keep)
    by_hand.train()
    for reference, before, policy in zip(trainer.model.reference.parameters(), start, keep.seen[1], strict=True):
        torch.testing.assert_close(reference, 0.25 * policy + 0.75 * before, rtol=1e-5, atol=1e-7)


def test_a_hard_update_makes_the_reference_the_policy(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    args = config(out, max_steps=2, sync_ref_model=True, ref_model_mixup_alpha=1.0, ref_model_sync_steps=2)
    trainer = PreferenceTrainer(model_folder, objective=zoo.tdpo1(), args=args, train_dataset=rows)
    trainer.train()
    for reference, policy in zip(trainer.model.reference.parameters(), trainer.model.policy.parameters(), strict=True):
        assert torch.equal(reference, policy)
        assert not reference.requires_grad


@pytest.mark.slow
def test_a_resumed_run_finds_the_reference_as_it_was(model_folder: str, rows: list[dict[str, str]], out: str) -> None:
    def trainer(folder: str, *callbacks: Any) -> PreferenceTrainer:
        args = config(folder, max_steps=8, save_strategy="steps", save_steps=4, **SYNC)
        return PreferenceTrainer(
            model_folder, objective=zoo.dpo(), args=args, train_dataset=rows, callbacks=list(callbacks)
        )

    whole = trainer(f"{out}-whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(out, Interrupt()).train()
    resumed = trainer(out)
    resumed.train(resume_from_checkpoint=True)
    expected = dict(whole.model.named_parameters())
    for name, parameter in resumed.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"ref_model_mixup_alpha": 0.0}, "must be in"), ({"ref_model_sync_steps": 0}, "1 or more")],
)
def test_what_makes_no_sense_is_refused(
    changes: dict[str, Any], words: str, model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    with pytest.raises(ValueError, match=words):
        PreferenceTrainer(model_folder, objective=zoo.dpo(), args=config(out, **SYNC | changes), train_dataset=rows)


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_it_needs_a_reference_of_its_own(
    objective: str, model_folder: str, rows: list[dict[str, str]], out: str
) -> None:
    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM") if objective == "dpo" else None
    with pytest.raises(ValueError, match="a reference with weights of its own"):
        PreferenceTrainer(
            model_folder,
            objective=zoo.build(objective),
            args=config(out, **SYNC),
            train_dataset=rows,
            peft_config=adapter,
        )


@pytest.mark.outside
@pytest.mark.parametrize("way", ["copies", pytest.param("fsdp", marks=pytest.mark.long)])
def test_a_reference_on_two_processes_follows_as_on_one(
    way: str, model_folder: str, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    for processes in (1, 2):
        run_module(SCRIPT, processes, model_folder, data, tmp_path / str(processes), processes, way)
    start = load_file(Path(model_folder) / "model.safetensors")
    for part in ("model.safetensors", "reference/model.safetensors"):
        one = load_file(tmp_path / "1" / "whole" / part)
        assert any(not torch.equal(values, start[name]) for name, values in one.items())
        for run in ("whole", "rest"):
            two = load_file(tmp_path / "2" / run / part)
            assert two.keys() == one.keys()
            for name, values in one.items():
                torch.testing.assert_close(two[name], values, rtol=1e-4, atol=1e-6, msg=f"{run}, {part}: {name}")
