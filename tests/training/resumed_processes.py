"""One process of runs that test_spread starts: trains to the end, or goes on from a checkpoint, with copies of the
model or parts of it, and writes down what it has in the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from prefopt.training.manifest import CheckpointError
from tests.reliability.killed_runs import spread_models_without_accelerators
from tests.training.test_trainer import NEAR_ONE, config
from tests.training.zero_processes import zero

FSDP: dict[str, Any] = {"fsdp": True, "ddp_backend": "gloo"}

WAYS: dict[str, dict[str, Any]] = {
    "copies": {},
    "copies, of a stream": {},
    "fsdp": FSDP | {"fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}},
    "fsdp, in parts": FSDP | {"fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}},
    "zero2": {"deepspeed": zero(2)},
    "zero3": {"deepspeed": zero(3)},
}
"""Name -> training arguments."""


def trained(
    model: str, rows: Any, out: str, way: str, processes: int, batch: int, checkpoint: str
) -> PreferenceTrainer:
    """A trainer after six steps of eight pairs, or after those that follow the checkpoint of the third."""
    if "fsdp" in WAYS[way]:
        spread_models_without_accelerators()
    settings = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "learning_rate": 1e-3}
    settings |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch // processes}
    settings |= {"ddp_backend": "gloo"} if processes > 1 else {}
    trainer = PreferenceTrainer(
        model,
        objective=zoo.build({"zoo": "sparsepo", **NEAR_ONE}),
        args=config(out, resume_from_checkpoint=checkpoint or None, **settings | WAYS[way]),
        train_dataset=datasets.Dataset.from_list(rows).to_iterable_dataset() if "stream" in way else rows,
    )
    trainer.train()
    trainer.save_model()
    return trainer


def moments(trainer: PreferenceTrainer) -> dict[str, Tensor]:
    """The optimizer's state of each parameter, whole."""
    states = {}
    for name, parameter in trainer.model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq") if parameter.requires_grad else ():
            value = trainer.optimizer.state[parameter][key]
            states[f"{name}.{key}"] = (value.full_tensor() if isinstance(value, DTensor) else value).clone()
    return states


if __name__ == "__main__":
    model, rows, out, way, processes, batch, checkpoint = sys.argv[1:]
    torch.set_num_threads(1)
    Path(out).mkdir(exist_ok=True)
    try:
        trainer = trained(model, json.loads(Path(rows).read_text()), out, way, int(processes), int(batch), checkpoint)
    except CheckpointError as error:
        Path(out, "error").write_text(str(error))
    else:
        states = {} if trainer.is_deepspeed_enabled else moments(trainer)
        if trainer.is_world_process_zero():
            save_file(states, f"{out}/moments.safetensors")
            logs = [entry for entry in trainer.state.log_history if "loss" in entry]
            Path(out, "logs").write_text(json.dumps(logs))
