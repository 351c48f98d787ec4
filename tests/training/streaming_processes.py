"""One process of a run that test_streaming starts: trains on a stream, samples, predicts and resumes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets

from prefopt import zoo
from prefopt.training import PreferenceTrainer, SamplesCallback
from tests.training.test_trainer import config

if __name__ == "__main__":
    model, data, out, batch = sys.argv[1:]
    rows = json.loads(Path(data).read_text())
    faulty = [*rows[:5], {**rows[5], "chosen": ""}, *rows[6:]]

    def made() -> PreferenceTrainer:
        saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "on_bad_rows": "quarantine"}
        args = config(out, per_device_train_batch_size=int(batch), learning_rate=1e-3, **saving)
        pairs = datasets.Dataset.from_list(faulty).to_iterable_dataset().shuffle(seed=1, buffer_size=5)
        return PreferenceTrainer(
            model, objective=zoo.dpo(), args=args, train_dataset=pairs, eval_dataset=rows[:7], compute_metrics=count
        )

    def count(prediction: object) -> dict[str, int]:
        return {"pairs": len(prediction.label_ids)}

    trainer = made()
    trainer.add_callback(SamplesCallback(trainer, ["the film"], every=2, max_new_tokens=3))
    trainer.train()
    predicted = trainer.predict(rows[:7])
    again = made()
    again.train(f"{out}/checkpoint-3")
    if trainer.is_world_process_zero():
        result = {
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "again": [entry["loss"] for entry in again.state.log_history if "loss" in entry],
            "labels": predicted.label_ids.tolist(),
            "logps": predicted.predictions["logps/chosen"].tolist(),
            "pairs": predicted.metrics["test_pairs"],
            "quarantine": Path(out, "quarantine-train.jsonl").read_text(),
            "samples": Path(out, "samples.jsonl").read_text().count("\n"),
        }
        Path(out, "result.json").write_text(json.dumps(result))
