"""What a run that its numbers stopped keeps of the step, in OUTPUT/failed-step: enough to compute it again."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from prefopt.scoring import PreferenceModel
from prefopt.scoring.forward import causal_lm
from prefopt.tokens import PreferenceBatch
from prefopt.training.finite_steps import sources
from prefopt.training.manifest import LIBRARIES
from prefopt.training.random_states import RandomStates
from prefopt.whole_files import UNFINISHED, free_bytes, publish_folder, remove

FAILED_STEP = "failed-step"
"""The folder's name, in the run's."""

_RECORD, _TENSORS, _WEIGHTS = "step.json", "step.safetensors", "weights"

_LOG = logging.getLogger(__name__)


@final
class FailedStepError(ValueError):
    """A run that has kept no step, or one that cannot be computed again."""


@final
@dataclass(frozen=True, eq=False)
class FailedStep:
    """A step that was not taken.

    batches  of every process, those of the first one first: (process, batch, the file and line of each pair)
    random   the states with which each process began the step
    record   step, error, seed, precision, versions and the like
    weights  the folder of the weights before the step, None where there was no room for them
    """

    folder: Path
    batches: list[tuple[int, PreferenceBatch, list[str]]]
    random: dict[int, RandomStates]
    record: dict[str, Any]
    weights: Path | None

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """Read what a run's folder keeps. Raises FailedStepError where it keeps none."""
        folder = Path(run) / FAILED_STEP
        if not (folder / _RECORD).is_file():
            raise FailedStepError(f"{run}: it has no {FAILED_STEP}, as no step of it has stopped by its numbers")
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(folder / _TENSORS).items():
            prefix, _, name = key.partition("/")
            parts.setdefault(prefix, {})[name] = tensor
        batches = []
        for entry in record["batches"]:
            fields = parts[entry["tensors"]]
            batches.append((entry["process"], PreferenceBatch.from_mapping(fields), entry["where"]))
        random = {
            int(process): RandomStates.from_parts(parts[f"random-{process}"], plain)
            for process, plain in record["random"].items()
        }
        weights = None if record["weights"] is None else (folder / record["weights"]).resolve()
        return cls(folder, batches, random, record, weights)


def keep_failed_step(
    trainer: Trainer,
    batches: Sequence[PreferenceBatch],
    random: RandomStates,
    error: Exception,
    unchanged_since: int,
) -> str:
    """Write the step that an error stops, with the weights before it where no checkpoint has them, and say what was
    kept, in words. A collective: every process calls it.

    unchanged_since  the last step that changed the weights
    """
    args, accelerator = trainer.args, trainer.accelerator
    parts = [(accelerator.process_index, [batch.to("cpu") for batch in batches], random)]
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    root = Path(args.output_dir)
    beside, target = root / UNFINISHED / FAILED_STEP, root / FAILED_STEP
    model: PreferenceModel = accelerator.unwrap_model(trainer.model)
    plan: tuple[str | None, str] = (None, "")
    problem = ""
    if args.should_save:
        try:
            remove(beside.parent)
            beside.mkdir(parents=True)
            plan = _plan_weights(trainer, model, unchanged_since)
        except OSError as failure:
            problem = str(failure)
    if accelerator.num_processes > 1:
        plan, problem = gather_object([(plan, problem)])[0]
    weights, phrase = plan
    if not problem:
        try:
            if weights == _WEIGHTS:
                Trainer.save_model(trainer, str(beside / _WEIGHTS), _internal_call=True)
            if args.should_save:
                _write(trainer, model, beside, parts, error, weights)
                publish_folder(beside, target)
                remove(beside.parent)
        except OSError as failure:
            problem = str(failure)
    accelerator.wait_for_everyone()
    if problem:
        return f"the step could not be kept in {target}: {problem}"
    return f"the step is kept in {target}, {phrase}: `prefopt replay {root}` computes it again"


def _plan_weights(trainer: Trainer, model: PreferenceModel, unchanged_since: int) -> tuple[str | None, str]:
    """Where the weights before the step are to be, within the folder, and that in words."""
    root = Path(trainer.args.output_dir)
    for folder in root.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        number = folder.name.rpartition("-")[2]
        is_same = number.isdigit() and unchanged_since <= int(number) <= trainer.state.global_step
        if is_same and not trainer.args.sync_ref_model:
            return f"../{folder.name}", f"with the weights of {folder.name}"
    adapted = isinstance(model.policy, PeftModel)
    parameters = [p for p in model.policy.parameters() if p.requires_grad or not adapted]
    size = sum(tensor.nbytes for tensor in (*parameters, *model.objective.state_dict().values()))
    if trainer.args.sync_ref_model and model.reference is not None:
        size += sum(parameter.nbytes for parameter in model.reference.parameters())
    free = free_bytes(root)
    if size > free:
        _LOG.warning("%s: no room for the weights: %s needed, %s free", root, _megabytes(size), _megabytes(free))
        return None, f"without its weights ({_megabytes(size)} needed, {_megabytes(free)} free)"
    return _WEIGHTS, f"with {_megabytes(size)} of weights"


def _write(
    trainer: Trainer,
    model: PreferenceModel,
    folder: Path,
    parts: Sequence[tuple[int, Sequence[PreferenceBatch], RandomStates]],
    error: Exception,
    weights: str | None,
) -> None:
    args = trainer.args
    tensors: dict[str, torch.Tensor] = {}
    entries = []
    for process, batches, random in parts:
        tensors |= {f"random-{process}/{name}": value for name, value in random.tensors().items()}
        for index, batch in enumerate(batches):
            prefix = f"batch-{process}-{index}"
            rows = batch.rows.tolist()
            tensors |= {f"{prefix}/{name}": value.contiguous() for name, value in batch.as_mapping().items()}
            entries.append({"process": process, "tensors": prefix, "where": sources(trainer.train_dataset, rows)})
    reference = "" if model.reference is None else causal_lm(model.reference).config._name_or_path
    record = {
        "step": trainer.state.global_step + 1,
        "error": str(error),
        "batches": entries,
        "seeds": {"seed": args.seed, "data_seed": args.data_seed},
        "random": {str(process): random.plain() for process, _, random in parts},
        "autocast": "float16" if args.fp16 else "bfloat16" if args.bf16 else None,
        "weights": weights,
        "reference": reference or None,
        "plain_forward": model.uses_plain_forward,
        "logits_budget": model.logits_budget,
        "router_aux_loss_coef": None if model.router_loss is None else model.router_loss.coefficient,
        "processes": trainer.accelerator.num_processes,
        "device": str(args.device),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    save_file(tensors, folder / _TENSORS)
    (folder / _RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
