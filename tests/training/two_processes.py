"""One process of a run that test_distributed starts: trains and, on the first process, writes down what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate.utils import gather_object
from torch.distributed import get_backend

from prefopt import zoo
from prefopt.scoring import NonFiniteError
from prefopt.training import PreferenceTrainer
from tests.training.test_step_guard import Spoil
from tests.training.test_trainer import NEAR_ONE, config

if __name__ == "__main__":
    model, rows, out, batch, *cache = sys.argv[1:]
    several = {"ddp_backend": "gloo", "ddp_bucket_cap_mb": 1, "ddp_broadcast_buffers": False}
    settings = {"reference_cache": cache[0], "ddp_find_unused_parameters": False, **several} if cache else {}
    trainer = PreferenceTrainer(
        model,
        objective=zoo.build({"zoo": "sparsepo", **NEAR_ONE}),
        args=config(
            out,
            per_device_train_batch_size=int(batch),
            max_steps=5,
            learning_rate=1e-3,
            max_skipped_steps=1,
            **settings,
        ),
        train_dataset=json.loads(Path(rows).read_text()),
        eval_dataset=json.loads(Path(rows).read_text())[:11],
    )
    spoil = Spoil(3)
    if trainer.accelerator.is_last_process:
        trainer.add_callback(spoil)
    trainer.train()
    if cache:
        wrapped = trainer.model_wrapped
        shown = (wrapped.bucket_bytes_cap, wrapped.broadcast_buffers, get_backend())
        assert shown == (2**20, False, "gloo"), shown
        assert not wrapped.find_unused_parameters
    metrics = trainer.evaluate()
    trainer.save_model()
    log, error = trainer.state.log_history, ""
    spoil.steps, trainer.args.max_skipped_steps = (1,), 0
    try:
        trainer.train()
    except NonFiniteError as stop:
        error = str(stop)
    errors = gather_object([error])
    if trainer.is_world_process_zero():
        (Path(out) / "result.json").write_text(json.dumps({"log": log, "eval": metrics, "errors": errors}))
