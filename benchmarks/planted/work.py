"""One run: train a policy under an objective on a task's pairs, and measure it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PrinterCallback

from benchmarks.planted.grid import Run
from prefopt import ObjectiveConfig, zoo
from prefopt.comparison import Material, resolve_task
from prefopt.comparison.quiet import quiet
from prefopt.data import read_rows
from prefopt.scoring import PreferenceModel
from prefopt.training import PreferenceConfig, PreferenceTrainer

__all__ = ["carry_out"]

_SHOWN = 2
"""Prompts whose samples are kept."""


def carry_out(run: Run, work: Path) -> dict[str, Any]:
    """The means of the run's metrics over held-out items, a few samples, and what it took: seconds of processor time,
    those of making the material counted apart.
    """
    torch.set_num_threads(1)
    start = time.process_time()
    task = resolve_task(run.task)
    material = task.prepare(work / "material", run.seed)
    made = time.process_time()
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(material.model)
        reference = _load(material)
        if run.row is None:
            model = PreferenceModel(_load(material), reference, ObjectiveConfig())
        else:
            folder = work / "training" / run.key
            model = _trained(run, run.row, material, reference, tokenizer, folder)
            shutil.rmtree(folder, ignore_errors=True)
    trained = time.process_time()
    evaluation = task.evaluate(model, reference, tokenizer, material)
    return {
        "metrics": {name: fmean(values.values()) for name, values in evaluation.values.items()},
        "samples": {prompt: texts[0] for prompt, texts in list(evaluation.samples.items())[:_SHOWN]},
        "seconds": {
            "material": made - start,
            "training": trained - made,
            "measuring": time.process_time() - trained,
        },
    }


def _load(material: Material) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(material.model, dtype="float32").eval()


def _trained(
    run: Run, row: dict[str, Any], material: Material, reference: PreTrainedModel, tokenizer: Any, folder: Path
) -> PreferenceModel:
    trainer = PreferenceTrainer(
        _load(material),
        reference,
        objective=zoo.build(row["objective"] | {"beta": run.beta}),
        args=PreferenceConfig(
            output_dir=str(folder),
            num_train_epochs=run.epochs,
            per_device_train_batch_size=run.batch_size,
            learning_rate=run.learning_rate,
            mask_learning_rate=row.get("mask_learning_rate"),
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=run.seed,
        ),
        train_dataset=read_rows(material.train),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model: PreferenceModel = trainer.model
    return model
