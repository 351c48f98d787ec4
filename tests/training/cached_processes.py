"""One process of runs that test_cache_under_fsdp starts: trains with a reference whose states are kept, and evaluates
pairs that the cache has and pairs that it lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from tests.reliability.killed_runs import spread_models_without_accelerators
from tests.training.resumed_processes import WAYS
from tests.training.test_trainer import NEAR_ONE, config


def run(model: str, rows: list[dict[str, str]], out: Path, processes: int, by: str) -> dict[str, Any]:
    """The log and the evaluations of a run, whose reference is given by its name, and so released, or as a module."""
    spread = WAYS["fsdp"] | {"reference_cache": str(out / "cache")} if processes > 1 else {}
    trainer = PreferenceTrainer(
        model,
        AutoModelForCausalLM.from_pretrained(model) if by == "module" else None,
        objective=zoo.build({"zoo": "sparsepo", **NEAR_ONE}),
        args=config(
            str(out),
            per_device_train_batch_size=8 // processes,
            per_device_eval_batch_size=1,
            learning_rate=1e-3,
            **spread,
        ),
        train_dataset=rows[:24],
        eval_dataset=rows[:6],
    )
    trainer.train()
    seen, mixed = trainer.evaluate(), trainer.evaluate(rows[22:30:3])
    trainer.save_model()
    return {"log": [logs for logs in trainer.state.log_history if "loss" in logs], "seen": seen, "mixed": mixed}


if __name__ == "__main__":
    model, rows, out, processes = sys.argv[1:]
    torch.set_num_threads(1)
    if int(processes) > 1:
        spread_models_without_accelerators()
    results = {}
    for by in ("name", "module"):
        Path(out, by).mkdir(parents=True, exist_ok=True)
        results[by] = run(model, json.loads(Path(rows).read_text()), Path(out, by), int(processes), by)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        Path(out, "results.json").write_text(json.dumps(results))
