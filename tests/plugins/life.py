"""What anyone does with an installed plugin, decay here: a file that an environment of the plugin's own runs.

python life.py MODEL ROWS OUT      the trainer: save, load, resume, an adapter
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file

from prefopt import Objective, zoo
from prefopt.training import PreferenceConfig, PreferenceTrainer

MODEL, ROWS, OUT = sys.argv[1:]
OBJECTIVE = zoo.build({"zoo": "tdpo1", "weighting": {"name": "decay", "gamma": 0.8}})


def trainer(out: str, **changes: Any) -> PreferenceTrainer:
    adapter = changes.pop("adapter", None)
    fields: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
    }
    return PreferenceTrainer(
        MODEL,
        objective=OBJECTIVE,
        args=PreferenceConfig(out, **fields | changes),
        train_dataset=json.loads(Path(ROWS).read_text()),
        peft_config=adapter,
    )


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def alone() -> None:
    whole = trainer(f"{OUT}/whole", save_strategy="steps", save_steps=2)
    whole.train()
    whole.save_model()
    loaded = Objective.load(f"{OUT}/whole")
    assert loaded.config == OBJECTIVE, loaded.config
    assert "prefopt-decay 0.1.0" in Path(OUT, "whole", "objective.yaml").read_text()

    resumed = trainer(f"{OUT}/resumed")
    resumed.train(resume_from_checkpoint=f"{OUT}/whole/checkpoint-2")
    assert resumed.state.global_step == 4
    resumed.save_model()
    expected = weights(f"{OUT}/whole")
    for name, tensor in weights(f"{OUT}/resumed").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)

    adapter = trainer(f"{OUT}/adapter", adapter=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapter.train()
    adapter.save_model()
    assert Path(OUT, "adapter", "adapter_model.safetensors").exists()
    assert Objective.load(f"{OUT}/adapter").config == OBJECTIVE
    losses = [entry["loss"] for entry in adapter.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0], losses


if __name__ == "__main__":
    alone()
