"""One process of a run that test_masks starts: trains a mask of every gate, and writes down what it has then."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from prefopt.training import PreferenceTrainer
from prefopt.weightings.sparse.gates import GATES
from tests.training.test_masks import learned, masked
from tests.training.test_trainer import config

if __name__ == "__main__":
    model, rows, out = sys.argv[1:]
    for gate in GATES:
        args = config(f"{out}/{gate}", per_device_train_batch_size=4, max_steps=3)
        trainer = PreferenceTrainer(
            model, objective=masked(gate), args=args, train_dataset=json.loads(Path(rows).read_text())
        )
        before = learned(trainer.model)
        trainer.train()
        weights = {"before": before, "after": learned(trainer.accelerator.unwrap_model(trainer.model))}
        torch.save(weights, f"{out}/{gate}-{args.process_index}.pt")
