"""One process of runs that test_reference_update starts: trains with a reference that follows the policy, and goes on
from a checkpoint of the same run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from tests.reliability.killed_runs import spread_models_without_accelerators
from tests.training.resumed_processes import WAYS
from tests.training.test_trainer import config

if __name__ == "__main__":
    model, rows, out, processes, way = sys.argv[1:]
    torch.set_num_threads(1)
    spread = WAYS[way] | {"ddp_backend": "gloo"} if int(processes) > 1 else {}
    if "fsdp" in spread:
        spread_models_without_accelerators()
    following = {"sync_ref_model": True, "ref_model_mixup_alpha": 0.25, "ref_model_sync_steps": 1}
    saving = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3, "max_steps": 4}
    for name, checkpoint in (("whole", None), ("rest", f"{out}/whole/checkpoint-2")):
        trainer = PreferenceTrainer(
            model,
            objective=zoo.dpo(),
            args=config(
                f"{out}/{name}",
                per_device_train_batch_size=8 // int(processes),
                resume_from_checkpoint=checkpoint,
                **saving | following | spread,
            ),
            train_dataset=json.loads(Path(rows).read_text()),
        )
        trainer.train()
        trainer.save_model()
