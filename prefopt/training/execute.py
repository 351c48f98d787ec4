"""Executes a run file: data first, so that bad rows stop the run before models are loaded, then models and training."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from prefopt.data import DataReport
from prefopt.registry import excluded_plugins, provenance
from prefopt.training.config import PreferenceConfig
from prefopt.training.loading import adapter_base, load_tokenizer, reject_unloadable
from prefopt.training.manifest import LIBRARIES, CheckpointError
from prefopt.training.output_folder import OutputFolderError, reject_output_folder
from prefopt.training.preflight import reject_unusable_settings
from prefopt.training.rehearsal import rehearse
from prefopt.training.resume import checkpoint_to_resume
from prefopt.training.run_data import prepare_run_data
from prefopt.training.run_file import RunFile, RunFileError
from prefopt.training.run_lock import locked, reject_locked
from prefopt.training.samples import ComparingJudge, SamplesCallback
from prefopt.training.trainer import PreferenceTrainer
from prefopt.training.trainer_inputs import ensure_pad_token, lora_config
from prefopt.training.writable import reject_unwritable
from prefopt.whole_files import publish_text

_LOG = logging.getLogger(__name__)

_OF_UPLOADS = ("hub_model_id", "hub_token", "hub_revision", "hub_private_repo")


@final
@dataclass(frozen=True)
class RunResult:
    """The run's folder, its last evaluation (empty without evaluation data), and the training log."""

    folder: Path
    evaluation: dict[str, float]
    log: list[dict[str, float]]


def start(
    run: RunFile,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    judges: Callable[[object], ComparingJudge] | None = None,
) -> PreferenceTrainer:
    """The trainer of a run, before its first step. The resolved run file, versions and data reports are written when
    training begins; what an earlier run left in the folder is then removed, if it may be overwritten.

    judges   makes the judge of `samples.judge`: `prefopt.tasks.judges.resolve_judge`
    dry_run  check besides what is checked before the first step, and write nothing; the trainer does not train
    Raises RunFileError, also where the output folder holds another run or what this one reads, DataError (bad rows) and
    what `from_pretrained` raises.
    """
    args = run.preference_config()
    try:
        peft_config = lora_config(run.model.peft)
    except (TypeError, ValueError) as error:
        raise RunFileError(f"model.peft: {error}") from error
    try:
        held_out = [] if run.data.test_split_size is None else [""]
        reject_unusable_settings(run.objective, args, run.data.eval or held_out)
    except ValueError as error:
        raise RunFileError(f"training: {error}") from error
    if unread := [name for name in _OF_UPLOADS if getattr(args, name) is not None and not args.push_to_hub]:
        _LOG.warning("training.%s has no effect: nothing of this run is uploaded without push_to_hub", unread[0])
    judge = _judge(run, judges)
    args.overwrite_output_dir |= overwrite
    args.dry_run = dry_run
    _check_output_folder(run, args)
    _check_models(run)
    tokenizer = _tokenizer(run.model.tokenizer or run.model.name)
    data = prepare_run_data(run, args, tokenizer)
    trainer = PreferenceTrainer(
        run.model.name,
        run.model.reference,
        objective=run.objective,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.data_reports |= data.reports
    trainer.data_sources |= data.sources
    if run.samples is not None:
        settings = run.samples.model_dump(exclude={"judge"})
        trainer.add_callback(SamplesCallback(trainer, **settings, judge=judge))
    if args.should_save:
        trainer.callback_handler.callbacks.insert(0, _RunRecord(run, trainer.data_reports))
    if dry_run:
        rehearse(trainer)
    return trainer


def train(trainer: PreferenceTrainer) -> RunResult:
    """Train, save policy, objective and card in the run folder, evaluate where there is evaluation data, and upload
    what was saved where it is asked for. A run that is resumed after all that is left as it is."""
    folder = Path(trainer.args.output_dir)
    evaluation: dict[str, float] = {}
    with locked(trainer.args):
        output = trainer.train()
        if output.metrics or not (folder / TRAINER_STATE_NAME).is_file():  # which is written last
            trainer.save_locally()
            if trainer.eval_dataset is not None:
                evaluation = trainer.evaluated() or trainer.evaluate()  # which the last step may have had already
            trainer.create_model_card()  # with the figures of that evaluation
            if trainer.args.push_to_hub:
                trainer.push_saved()
            trainer.save_state()
    return RunResult(folder, evaluation, trainer.state.log_history)


def _judge(run: RunFile, judges: Callable[[object], ComparingJudge] | None) -> ComparingJudge | None:
    if run.samples is None or run.samples.judge is None:
        return None
    if judges is None:
        raise RunFileError("samples.judge needs start(run, judges=prefopt.tasks.judges.resolve_judge), in Python")
    try:
        judge = judges(run.samples.judge)
        judge.check()
    except (ImportError, ValueError) as error:
        raise RunFileError(f"samples.judge: {error}") from error
    return judge


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(name)
    try:
        return ensure_pad_token(tokenizer)
    except ValueError as error:
        raise RunFileError(f"{name}: {error}, or name another one as model.tokenizer") from error


def _check_models(run: RunFile) -> None:
    """Raise RunFileError for a name that leads to no causal LM, before data is read."""
    for field, name in (("name", run.model.name), ("reference", run.model.reference)):
        try:
            if name is not None:
                reject_unloadable(name, run.model.init)
        except ValueError as error:
            raise RunFileError(f"model.{field}: {error}") from error


def _check_output_folder(run: RunFile, args: PreferenceConfig) -> None:
    models = {"model": run.model.name, "reference": run.model.reference}
    bases = {f"{role}'s base": adapter_base(name) for role, name in models.items() if name and Path(name).is_dir()}
    files = {"tokenizer": run.model.tokenizer}
    files |= {f"data ({source.path})": source.path for source in run.data.train}
    files |= {f"evaluation data ({source.path})": source.path for source in run.data.eval.values()}
    try:
        reject_unwritable(args)
        reject_locked(args)
    except OutputFolderError as error:
        raise RunFileError(str(error)) from error
    try:
        resumed = checkpoint_to_resume(args)
        inputs = {**models, **bases, **files, "reference cache": run.data.reference_cache}
        resumes = args.resume_from_checkpoint not in (None, "no", "false")
        reject_output_folder(args, inputs, resumed=resumed, resumes=resumes)
    except CheckpointError as error:
        raise RunFileError(f"training.resume_from_checkpoint: {error}") from error
    except OutputFolderError as error:
        raise RunFileError(f"training.output_dir: {error}") from error


@final
class _RunRecord(TrainerCallback):
    """Writes run.yaml and about.json when training begins, so that a run that cannot start leaves neither."""

    def __init__(self, run: RunFile, reports: dict[str, DataReport]) -> None:
        self._run, self._reports = run, reports

    def on_train_begin(self, args: PreferenceConfig, state: object, control: object, **kwargs: object) -> None:
        _write_run_record(self._run, args, self._reports)

    def on_train_end(self, args: PreferenceConfig, state: object, control: object, **kwargs: object) -> None:
        if self._run.data.streaming:  # whose report is known by now
            _write_run_record(self._run, args, self._reports)


def _write_run_record(run: RunFile, args: PreferenceConfig, reports: dict[str, DataReport]) -> None:
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    publish_text(run.to_yaml(), folder / "run.yaml")
    about = {
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "components": provenance(run.objective.components),
        "excluded_plugins": excluded_plugins(),
        "seeds": {"seed": args.seed, "data_seed": args.data_seed},
        "data": {name: report.to_dict() for name, report in reports.items()},
    }
    publish_text(json.dumps(about, indent=2) + "\n", folder / "about.json")
