"""Trains one row of a comparison in a process of its own, so that its memory and its threads are its own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from prefopt.data import PreferenceCollator
from prefopt.tokens import PreferenceBatch
from prefopt.training import PreferenceTrainer, RunFile, start, train

__all__ = ["trained"]


def trained(run_file: Path, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Carry out the run file in `folder`, or read what came of it there if that was done before.

    Says what `prefopt train` reports (`evaluation`, `log`), `seconds` and `peak_rss_mib` of training, and `held_out`:
    for each held-out pair its `prompt` and whether the chosen response had the higher reward.
    """
    overrides = [*overrides, f"training.output_dir={folder}"]
    resolved = RunFile.load(run_file, overrides).to_yaml()
    key = hashlib.sha256(resolved.encode()).hexdigest()
    record = folder / "trained.json"
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found
    # Spawned, not forked: a child must not start with the parent's memory.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(_train, run_file, overrides).result() | {"key": key}
    record.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _train(run_file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    run = RunFile.load(run_file, overrides)
    trainer = start(run)
    result = train(trainer)
    peak = _peak_rss_mib()
    seconds = next(entry["train_runtime"] for entry in reversed(result.log) if "train_runtime" in entry)
    return {
        "objective": run.objective.model_dump(mode="json"),
        "training": {name: value for name, value in run.training.items() if name != "output_dir"},
        "max_length": run.data.max_length,
        "data": {name: report.to_dict() for name, report in trainer.data_reports.items()},
        "evaluation": result.evaluation,
        "log": result.log,
        "seconds": seconds,
        "peak_rss_mib": peak,
        "held_out": _held_out(trainer),
    }


@torch.inference_mode()
def _held_out(trainer: PreferenceTrainer) -> list[dict[str, Any]]:
    data = trainer.eval_dataset
    collate = PreferenceCollator(trainer.processing_class.pad_token_id)
    pairs = []
    trainer.model.eval()
    for fields in DataLoader(data, batch_size=trainer.args.per_device_eval_batch_size, collate_fn=collate):
        batch = PreferenceBatch.from_mapping(fields)
        chosen, rejected = trainer.model(batch).rewards.chunk(2)
        for row, right in zip(batch.rows.tolist(), (chosen > rejected).tolist(), strict=True):
            prompt = trainer.processing_class.decode(data[row]["prompt_ids"])
            pairs.append({"prompt": prompt, "right": right})
    return pairs


def _peak_rss_mib() -> float:
    """Of this process alone: getrusage's figure may be inherited from the parent."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
