"""One process of a run that test_distributed starts: trains and, on the first process, writes down what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prefopt import zoo
from prefopt.training import PreferenceTrainer
from tests.training.test_trainer import NEAR_ONE, config

if __name__ == "__main__":
    model, rows, out, batch, *cache = sys.argv[1:]
    cached = {"reference_cache": cache[0]} if cache else {}
    trainer = PreferenceTrainer(
        model,
        objective=zoo.build({"zoo": "sparsepo", **NEAR_ONE}),
        args=config(out, per_device_train_batch_size=int(batch), max_steps=4, learning_rate=1e-3, **cached),
        train_dataset=json.loads(Path(rows).read_text()),
        eval_dataset=json.loads(Path(rows).read_text())[:8],
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        (Path(out) / "result.json").write_text(json.dumps({"log": trainer.state.log_history, "eval": metrics}))
