"""One process of runs that test_order starts: trains three epochs of three steps in every order of pairs, goes on from
the middle of the second epoch, and writes down which pairs each step had."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import config

ORDERS = ("random", "sequential", "group_by_length", "batch_rebalance")


class Draws(TrainerCallback):
    """Draws unlike numbers in each process, as dropout and samples do."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        torch.rand(1 + args.process_index)


class Noting(PreferenceTrainer):
    """Notes the pairs of each step."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen[self.state.global_step] += inputs["rows"].tolist()
        return super().compute_loss(model, inputs, *args, **kwargs)


def steps(model: str, rows: Any, out: str, order: str, processes: int, checkpoint: str | None) -> dict[int, list[int]]:
    """The pairs of each step, over all processes."""
    trainer = Noting(
        model,
        objective=zoo.dpo(),
        args=config(
            out,
            train_sampling_strategy=order,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2 // processes,
            max_steps=-1,
            num_train_epochs=3,
            data_seed=5,
            save_strategy="steps",
            save_steps=4,
            resume_from_checkpoint=checkpoint,
            **({"ddp_backend": "gloo"} if processes > 1 else {}),
        ),
        train_dataset=rows,
        callbacks=[Draws()],
    )
    trainer.seen = defaultdict(list)
    trainer.train()
    seen = defaultdict(list)
    for of_process in gather_object([dict(trainer.seen)]) if processes > 1 else [trainer.seen]:
        for step, pairs in of_process.items():
            seen[step] += pairs
    return {step: sorted(pairs) for step, pairs in seen.items()}


if __name__ == "__main__":
    model, data, folder, processes, wrote = sys.argv[1:]
    torch.set_num_threads(1)
    rows, of_orders = json.loads(Path(data).read_text()), {}
    for order in ORDERS:
        whole = steps(model, rows, f"{folder}/{order}", order, int(processes), None)
        rest = steps(model, rows, f"{folder}/{order}-rest", order, int(processes), f"{wrote}/{order}/checkpoint-4")
        of_orders[order] = {"whole": whole, "rest": rest}
    if int(processes) == 1 or torch.distributed.get_rank() == 0:
        Path(folder, "steps.json").write_text(json.dumps(of_orders))
