"""One process of runs that test_zero starts: trains, under DeepSpeed's ZeRO or without, and writes down what came of
it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import NEAR_ONE, config

RUNS: dict[str, Any] = {"dpo": "dpo", "sparsepo": {"zoo": "sparsepo", **NEAR_ONE}, "tbpo_q": "tbpo_q"}
"""Objectives."""


def zero(stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration of a stage."""
    return {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
    }


def train(name: str, model: str, rows: list[dict[str, str]], out: Path, stage: int) -> dict[str, Any]:
    """The log of a run of three steps, its evaluation, and the last step of one that goes on from the second."""
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3, "learning_rate": 1e-3}
    if stage:
        settings |= {"deepspeed": zero(stage), "per_device_train_batch_size": 4}
    if stage == 2:
        settings["reference_cache"] = str(out / "cache")

    def trainer(**more: Any) -> PreferenceTrainer:
        return PreferenceTrainer(
            model,
            objective=zoo.build(RUNS[name]),
            args=config(str(out), **settings, **more),
            train_dataset=rows,
            eval_dataset=rows[:8],
        )

    first = trainer()
    first.train()
    metrics = first.evaluate()
    first.save_model()
    again = trainer(resume_from_checkpoint=str(out / "checkpoint-2"))
    again.train()
    steps = [[logs for logs in run.state.log_history if "loss" in logs] for run in (first, again)]
    return {"steps": steps[0], "eval": metrics, "resumed": steps[1][-1]}


if __name__ == "__main__":
    model, rows, out, stage = sys.argv[1:]
    torch.set_num_threads(1)
    pairs = json.loads(Path(rows).read_text())
    results = {name: train(name, model, pairs, Path(out) / name, int(stage)) for name in RUNS}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        (Path(out) / "results.json").write_text(json.dumps(results))
