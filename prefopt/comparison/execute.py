"""One run: train a policy under an objective on a task's pairs, measure it, and make the record of it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback

from prefopt.comparison.run import MATERIAL, Run
from prefopt.data import DataError, SourceRow, read_rows
from prefopt.data.quiet import quiet
from prefopt.objective_config import ObjectiveConfig
from prefopt.origins import origin_in_plugins
from prefopt.progress import Stopwatch, current_report, reporting_to
from prefopt.registry import provenance
from prefopt.sampling import SAMPLING
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Material
from prefopt.tasks.held_out import held_out
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.training.callbacks import StepReport
from prefopt.training.disk import full_disk
from prefopt.training.run_lock import guarded
from prefopt.training.trainer_inputs import ensure_pad_token, lora_config
from prefopt.whole_files import free_bytes

_LIBRARIES = ("prefopt", "torch", "transformers", "accelerate", "datasets", "tokenizers")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Curves = dict[str, list[tuple[int, float]]]


def execute(run: Run, folder: Path) -> dict[str, Any]:
    """The record of the run, carried out; where it raises, with its error and traceback. Raises OSError where a disk is
    full, which other runs would find as well."""
    try:
        return _empty_record(run) | train_and_measure(run, folder)
    except Exception as error:  # in the record, on the console and in the exit code: other runs may be fine
        reject_full_disk(error, run, folder)
        origin = origin_in_plugins(error)
        return failure(run, f"{type(error).__name__}: {error}{origin and f' ({origin})'}", traceback.format_exc())


def reject_full_disk(error: Exception, run: Run, folder: Path) -> None:
    """Raise OSError where the error of a run comes from a full disk."""
    if (full := full_disk(error)) is not None:
        raise OSError(
            full.errno,
            f"{run}: {full.strerror} ({free_bytes(folder):,} bytes are free there); make room, and the same command "
            "goes on: the runs that are finished stay",
            full.filename or str(folder),
        ) from error


def failure(run: Run, error: str, details: str) -> dict[str, Any]:
    """The record of a run that failed; `details` are a traceback or the last output of a process that died."""
    return _empty_record(run) | {"error": error, "traceback": details}


def _empty_record(run: Run) -> dict[str, Any]:
    return {
        "key": run.key,
        "name": run.name,
        "setting": dict(run.setting),
        "seed": run.seed,
        "configuration": run.configuration,
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in _LIBRARIES},
        "components": provenance(() if run.objective is None else run.objective.components),
        "values": {},
        "samples": {},
        "profiles": {},
        "heat_maps": [],
        "mask_faults": {},
        "curves": {},
        "seconds": {},
        "peak_memory_mib": None,
        "error": None,
        "traceback": None,
    }


def train_and_measure(run: Run, folder: Path) -> dict[str, Any]:
    """The measured fields of a record: metrics by held-out item, samples, profiles, heat maps and faults of the mask
    (see `HeldOut`), learning curves, seconds of each part and peak memory.

    The seconds add up to all of the run: `held_out` of the pairs, `sampling`, and `judging`, which is the rest that the
    task does with the policy. Material and reference cache stay in the folder for other runs.
    """
    _reset_peak()
    start = time.perf_counter()
    material = run.task.prepare(folder / MATERIAL, run.seed)
    prepared = time.perf_counter()
    args = run.arguments(folder)
    if run.objective is not None:
        reject_absent_columns(run.objective, args.columns or {}, material, run.task.name)
    with quiet():
        tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(material.model))
        curves: Curves = {}
        if run.objective is None:
            model = PreferenceModel(_load(material, args), _load(material, args), ObjectiveConfig())
        else:
            model, curves = _train(run, run.objective, args, material, tokenizer)
        trained = time.perf_counter()
        watch = Stopwatch(current_report())
        reference = _load(material, args)
        options = {"batch_size": args.per_device_eval_batch_size, "columns": args.columns, "marks": run.task.marks}
        common = held_out(model.eval(), reference, tokenizer, material, args.encoding, **options)
        scored = time.perf_counter()
        with reporting_to(watch):
            evaluation = run.task.evaluate(model.eval(), reference, tokenizer, material)
        if model.cache is not None:
            model.cache.store.flush()  # other runs then find the held-out pairs as well
    shutil.rmtree(args.output_dir, ignore_errors=True)
    seconds = {
        "material": prepared - start,
        "training": trained - prepared,
        "held_out": scored - trained,
        SAMPLING: watch.seconds.get(SAMPLING, 0.0),
    }
    seconds["judging"] = time.perf_counter() - start - sum(seconds.values())
    return {
        "values": common.values | dict(evaluation.values),
        "samples": evaluation.samples,
        "profiles": common.profiles,
        "heat_maps": common.heat_maps,
        "mask_faults": common.mask_faults,
        "curves": curves,
        "seconds": seconds,
        "peak_memory_mib": _peak_mib(),
    }


def reject_absent_columns(
    objective: ObjectiveConfig, columns: Mapping[str, str], material: Material, task: str
) -> None:
    """Raise DataError where the objective reads a field that the task's pairs do not have."""
    for row in islice(read_rows(material.train), 1):
        fields = row.fields if isinstance(row, SourceRow) else {}
        for component in objective.components:
            read = {field for column in component.columns for field in column.fields}
            if absent := sorted(field for field in read if columns.get(field, field) not in fields):
                raise DataError(
                    f"task {task!r}: its pairs have {', '.join(sorted(fields))}, but {component.kind} "
                    f"{component.name!r} reads {', '.join(absent)}; say which field holds it under `training.columns`, "
                    "or compare on a task that has it"
                )


def _load(material: Material, args: PreferenceConfig) -> Any:
    kwargs = args.model_init_kwargs or {}
    return AutoModelForCausalLM.from_pretrained(material.model, **kwargs).to(args.device).eval()


def _train(
    run: Run,
    objective: ObjectiveConfig,
    args: PreferenceConfig,
    material: Material,
    tokenizer: PreTrainedTokenizerBase,
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
    trainer.add_callback(StepReport())
    with guarded(Path(args.output_dir)):  # by the comparison's lock; a run of an earlier call may not have ended there
        trainer.train()
    model: PreferenceModel = trainer.accelerator.unwrap_model(trainer.model)
    return model, _curves(trainer.state.log_history)


def _curves(history: Iterable[Mapping[str, Any]]) -> Curves:
    """The logs of training by name: (step, value)."""
    curves: Curves = defaultdict(list)
    for logs in history:
        if "loss" in logs:
            for name in logs.keys() - {"step", "epoch"}:
                curves[name].append((int(logs["step"]), float(logs[name])))
    return dict(sorted(curves.items()))


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # the peak is then that of the whole process so far, which is still a bound
        _CLEAR.write_text("5", encoding="ascii")


def _peak_mib() -> float | None:
    """MiB: allocated on the GPU, where there is one, else resident in the process. None without /proc."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**20)
    lines = _STATUS.read_text(encoding="utf-8").splitlines() if _STATUS.exists() else ()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)
