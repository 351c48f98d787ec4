"""One run: train a policy under an objective on a task's pairs, and measure it."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback, Trainer

from prefopt.comparison.memory import forget_peak, peak_mib
from prefopt.comparison.run import MATERIAL, Run
from prefopt.data import read_rows
from prefopt.objective import ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Material
from prefopt.tasks.held_out import held_out
from prefopt.tasks.quiet import quiet
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.training.trainer_inputs import ensure_pad_token, lora_config

__all__ = ["carry_out"]

Curves = dict[str, list[tuple[int, float]]]


def carry_out(run: Run, folder: Path, *, show: Callable[[Trainer], None]) -> dict[str, Any]:
    """What is measured of the run: metrics by held-out item, samples, profiles and heat maps (see `HeldOut`), learning
    curves, seconds of each part and peak memory.

    Material and reference cache are kept in the folder for other runs. `show` is given the trainer before it begins.
    """
    forget_peak()
    start = time.perf_counter()
    material = run.task.prepare(folder / MATERIAL, run.seed)
    made = time.perf_counter()
    args = run.arguments(folder)
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(material.model))
        curves: Curves = {}
        if run.objective is None:
            model = PreferenceModel(_load(material, args), _load(material, args), ObjectiveConfig())
        else:
            model, curves = _trained(run, run.objective, args, material, tokenizer, show)
        trained = time.perf_counter()
        reference = _load(material, args)
        common = held_out(
            model.eval(),
            reference,
            tokenizer,
            material,
            args.encoding,
            batch_size=args.per_device_eval_batch_size,
            columns=args.columns,
            marks=run.task.marks,
        )
        evaluation = run.task.evaluate(model.eval(), reference, tokenizer, material)
        if model.cache is not None:
            model.cache.store.flush()  # so that other runs find the held-out pairs as well
    shutil.rmtree(args.output_dir, ignore_errors=True)
    return {
        "values": common.values | dict(evaluation.values),
        "samples": evaluation.samples,
        "profiles": common.profiles,
        "heat_maps": common.heat_maps,
        "curves": curves,
        "seconds": {
            "material": made - start,
            "training": trained - made,
            "measuring": time.perf_counter() - trained,
        },
        "peak_memory_mib": peak_mib(),
    }


def _load(material: Material, args: PreferenceConfig) -> Any:
    kwargs = args.model_init_kwargs or {}
    return AutoModelForCausalLM.from_pretrained(material.model, **kwargs).to(args.device).eval()


def _trained(
    run: Run,
    objective: ObjectiveConfig,
    args: PreferenceConfig,
    material: Material,
    tokenizer: PreTrainedTokenizerBase,
    show: Callable[[Trainer], None],
) -> tuple[PreferenceModel, Curves]:
    trainer = PreferenceTrainer(
        material.model,
        objective=objective,
        args=args,
        train_dataset=read_rows(material.train),
        processing_class=tokenizer,
        peft_config=lora_config(run.peft),
    )
    trainer.remove_callback(PrinterCallback)
    show(trainer)
    trainer.train()
    model: PreferenceModel = trainer.accelerator.unwrap_model(trainer.model)
    return model, _curves(trainer.state.log_history)


def _curves(history: Iterable[Mapping[str, Any]]) -> Curves:
    """What was logged of training, by name: (step, value)."""
    curves: Curves = defaultdict(list)
    for logs in history:
        if "loss" in logs:
            for name in logs.keys() - {"step", "epoch"}:
                curves[name].append((int(logs["step"]), float(logs[name])))
    return dict(sorted(curves.items()))
