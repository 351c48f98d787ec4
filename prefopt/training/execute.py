"""Executes a run file: data first, so that bad rows stop the run before models are loaded, then models and training."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import final

from datasets import Dataset

from prefopt.data import DataReport, read_rows
from prefopt.registry import excluded_plugins, provenance
from prefopt.training.config import PreferenceConfig
from prefopt.training.loading import load_tokenizer
from prefopt.training.run_file import RunFile, RunFileError
from prefopt.training.trainer import PreferenceTrainer
from prefopt.training.trainer_inputs import ensure_pad_token, log_report, lora_config, prepare_dataset

_LIBRARIES = ("prefopt", "torch", "transformers", "accelerate", "datasets", "peft", "tokenizers")


@final
@dataclass(frozen=True)
class RunResult:
    """The run's folder, its last evaluation (empty without evaluation data), and the training log."""

    folder: Path
    evaluation: dict[str, float]
    log: list[dict[str, float]]


def start(run: RunFile) -> PreferenceTrainer:
    """The trainer of a run, before its first step. Writes the resolved run file, versions and data reports.

    Raises RunFileError, DataError (bad rows) and what `from_pretrained` raises.
    """
    args = run.preference_config()
    try:
        peft_config = lora_config(run.model.peft)
    except (TypeError, ValueError) as error:
        raise RunFileError(f"model.peft: {error}") from error
    tokenizer = ensure_pad_token(load_tokenizer(run.model.tokenizer or run.model.name))
    sources = {"train": (run.data.train, run.data.split), "eval": (run.data.eval, run.data.eval_split)}
    data: dict[str, Dataset] = {}
    reports: dict[str, DataReport] = {}
    for name, (source, split) in sources.items():
        if source is not None:
            rows = read_rows(source, split=split)
            data[name], report = prepare_dataset(rows, tokenizer, run.objective, args, name)
            if report is not None:
                reports[name] = report
                log_report(report, name)
    trainer = PreferenceTrainer(
        run.model.name,
        run.model.reference,
        objective=run.objective,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data.get("eval"),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.data_reports = reports
    if args.should_save:
        _write_run_record(run, args, trainer.data_reports)
    return trainer


def train(trainer: PreferenceTrainer) -> RunResult:
    """Train, save policy and objective in the run folder, and evaluate where there is evaluation data."""
    args = trainer.args
    trainer.train()
    trainer.save_model()
    evaluation = trainer.evaluate() if trainer.eval_dataset is not None else {}
    trainer.save_state()
    return RunResult(Path(args.output_dir), evaluation, trainer.state.log_history)


def _write_run_record(run: RunFile, args: PreferenceConfig, reports: dict[str, DataReport]) -> None:
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(run.to_yaml(), encoding="utf-8")
    about = {
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "components": provenance(run.objective.components),
        "excluded_plugins": excluded_plugins(),
        "seeds": {"seed": args.seed, "data_seed": args.data_seed},
        "data": {name: report.to_dict() for name, report in reports.items()},
    }
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
