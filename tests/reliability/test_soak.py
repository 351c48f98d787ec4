"""Long runs take no more memory than short ones."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from tests.reliability.figures import record
from tests.reliability.memory import anonymous_memory, slope
from tests.training.test_trainer import NEAR_ONE, config


class Sampled(TrainerCallback):
    """What `measure` gives at every so many steps."""

    def __init__(self, every: int, measure: Callable[[], int]) -> None:
        self.every, self.measure = every, measure
        self.steps: list[int] = []
        self.sizes: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every == 0:
            gc.collect()
            self.steps.append(state.global_step)
            self.sizes.append(self.measure())


def trainer(model: str, rows: list[dict[str, str]], out: Path, sampled: Sampled, **changes: Any) -> PreferenceTrainer:
    """A run with a learned mask, two pairs a step, which is evaluated, logged and saved on the way."""
    saves = {"save_strategy": "steps", "save_total_limit": 1, "eval_strategy": "steps"}
    objective = zoo.build({"zoo": "sparsepo", **NEAR_ONE})
    args = config(str(out), per_device_train_batch_size=2, learning_rate=1e-4, **saves, **changes)
    return PreferenceTrainer(
        model, objective=objective, args=args, train_dataset=rows, eval_dataset=rows[:4], callbacks=[sampled]
    )


def tensors() -> int:
    """How many tensors there are."""
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


def test_steps_leave_no_tensors_behind(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    sampled = Sampled(6, tensors)
    steps = {"max_steps": 24, "save_steps": 6, "eval_steps": 6, "logging_steps": 3}
    trainer(model_folder, rows, tmp_path, sampled, **steps).train()
    assert len(sampled.sizes) == 4
    assert len(set(sampled.sizes[1:])) == 1, sampled.sizes


@pytest.mark.reliability
def test_twenty_thousand_steps(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    steps, warm_up = 20_000, 2_000
    sampled = Sampled(100, anonymous_memory)
    every = {"max_steps": steps, "save_steps": 2_000, "eval_steps": 2_000, "logging_steps": 10}
    run = trainer(model_folder, rows, tmp_path, sampled, **every)
    began = time.monotonic()
    run.train()
    taken = time.monotonic() - began
    later = [(step, size) for step, size in zip(sampled.steps, sampled.sizes, strict=True) if step > warm_up]
    per_step = slope(*map(list, zip(*later, strict=True)))  # type: ignore[arg-type]
    record(
        "soak",
        "training: a learned mask, logs every 10 steps, evaluations and checkpoints every 2,000",
        steps=steps,
        minutes=round(taken / 60, 1),
        **{
            "MiB after the warm-up": round(later[0][1] / 2**20, 1),
            "MiB in the end": round(later[-1][1] / 2**20, 1),
            "bytes per step": round(per_step),
        },
    )
    assert per_step < 2_000, list(zip(sampled.steps, sampled.sizes, strict=True))[::20]
