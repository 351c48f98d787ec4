"""Resuming: the last whole checkpoint, and what has to be as it was in the run that wrote it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer import (
    OPTIMIZER_NAME,
    OPTIMIZER_NAME_BIN,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
)
from transformers.trainer_utils import sort_checkpoints

from prefopt.data import PairStream
from prefopt.scoring import PreferenceModel
from prefopt.training.config import PreferenceConfig
from prefopt.training.fingerprints import data_fingerprint, frozen_checksum
from prefopt.training.manifest import MANIFEST, CheckpointError, Manifest, reject_damaged

_LOG = logging.getLogger(__name__)


def checkpoint_to_resume(args: PreferenceConfig, folder: str | bool | None = None) -> str | None:
    """The checkpoint of a folder's name, or of `resume_from_checkpoint`, once its files are compared with its manifest;
    true: the last one of the output folder that is whole, those that are not being named in a warning.

    None where none is asked for, or the output folder has none. Raises CheckpointError for a folder that is not whole,
    and where no checkpoint of the output folder is.
    """
    folder = args.resume_from_checkpoint if folder is None else folder
    if folder in (None, False, "no", "false"):
        return None
    if folder not in (True, "true"):
        require_whole(str(folder))
        return str(folder)
    output = Path(args.output_dir)
    problems = []
    for path in reversed(sort_checkpoints(str(output))) if output.is_dir() else ():
        try:
            require_whole(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            _LOG.warning("Left out, as it is not whole: %s. Resuming from %s.", problem, path)
        return str(path)
    if problems:
        raise CheckpointError(
            f"{output}: no checkpoint is whole ({'; '.join(problems)}); --overwrite, or another folder, starts anew"
        )
    _LOG.warning("resume_from_checkpoint: %s has no checkpoint; starting anew.", output)
    return None


def require_whole(folder: str) -> Manifest | None:
    """The manifest of a checkpoint, if it has one. Raises CheckpointError where its files are not those that were
    written, or too few to go on from."""
    newest = max((path.stat().st_mtime_ns for path in Path(folder).rglob("*")), default=0)
    return _require_whole(folder, newest)


@cache
def _require_whole(folder: str, written: int) -> Manifest | None:
    """The digests of a checkpoint are computed once in a process."""
    manifest = reject_damaged(Path(folder))
    names = {path.name for path in Path(folder).iterdir()}
    if not any(fnmatch(name, pattern) for name in names for pattern in _POLICY) and not [
        *Path(folder).glob("*/adapter_model.*")
    ]:
        raise CheckpointError(f"{folder}: it holds no policy")
    if any(name.startswith("global_step") for name in names):  # DeepSpeed's own folder
        return manifest
    optimizer = Path(OPTIMIZER_NAME).stem
    required = {
        TRAINER_STATE_NAME: TRAINER_STATE_NAME in names,
        SCHEDULER_NAME: SCHEDULER_NAME in names,
        OPTIMIZER_NAME: any(name in (OPTIMIZER_NAME, OPTIMIZER_NAME_BIN) for name in names)
        or any(name.startswith(f"{optimizer}_") for name in names),  # FSDP's folder
    }
    missing = [name for name, is_there in required.items() if not is_there]
    if missing:
        raise CheckpointError(
            f"{folder}: it has no {missing[0]}, so a run cannot go on from it (save_only_model leaves that out); start "
            "from it as a model instead"
        )
    return manifest


_POLICY = ("model.safetensors", "model-*.safetensors", "adapter_model.*", "pytorch_model*")
"""Names of the weights of a whole model, an adapter, and the parts of a sharded one."""


_DECISIVE = """seed data_seed learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args
weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm bf16 fp16 train_sampling_strategy dataloader_drop_last
mask_learning_rate mask_weight_decay sync_ref_model ref_model_mixup_alpha ref_model_sync_steps router_aux_loss_coef
accelerator_config
""".split()
"""Arguments that decide what a step does."""

_HORIZON = ("max_steps", "num_train_epochs")
"""Arguments that decide where training ends, and so how the learning rate gets there."""

_WHEREABOUTS = ("base_model_name_or_path", "revision", "inference_mode", "peft_version")
"""Of an adapter's settings, those that do not change what it adds."""

_HYPERPARAMETERS = ("initial_lr", "weight_decay", "betas", "eps")
"""Of an optimizer's groups."""


@final
class RunSettings:
    """What decides the numbers of a run, as JSON values by name: its data, objective, frozen weights, and arguments.

    The digests are those of the run's start.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._data = data_fingerprint(trainer.train_dataset)
        self._frozen_weights = frozen_checksum(trainer)

    @property
    def values(self) -> dict[str, Any]:
        """By name."""
        args: PreferenceConfig = self._trainer.args
        model: PreferenceModel = self._trainer.accelerator.unwrap_model(self._trainer.model)
        return {
            **self._stream(),
            "data": self._data,
            "objective": model.objective.config.model_dump(mode="json"),
            "frozen_weights": self._frozen_weights,
            "adapters": _adapters(model),
            "optimizer": _optimizer(self._trainer.optimizer_cls_and_kwargs),
            "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            **decisive_arguments(args),
            **{name: getattr(args, name) for name in _HORIZON},
        }

    def _stream(self) -> dict[str, Any]:
        """How many pairs of a stream are trained on, and their digest."""
        data, args = self._trainer.train_dataset, self._trainer.args
        if not isinstance(data, PairStream):
            return {}
        pairs = self._trainer.state.global_step * self._trainer.get_total_train_batch_size(args)
        return {"stream": {"pairs": pairs, "digest": data.digest(pairs)}}

    def reject_changes(self, checkpoint: str) -> None:
        """Raise CheckpointError where the run that wrote the checkpoint had other settings, but for those that
        `resume_despite` names; log these, and a new end of training."""
        manifest, present = require_whole(checkpoint), self.values
        present.pop("stream", None)
        allowed = list(self._trainer.args.resume_despite or ())
        if unknown := [name for name in allowed if name not in present]:
            raise CheckpointError(f"resume_despite: {unknown[0]!r} is none of {', '.join(present)}")
        if manifest is None:
            _LOG.warning("%s has no %s: whether a run of these settings wrote it is not known.", checkpoint, MANIFEST)
            return
        saved = manifest.settings
        changes = {
            name: ", ".join(_differences(name, saved[name], value))
            for name, value in present.items()
            if name in saved and saved[name] != value
        }
        for name in (*allowed, *_HORIZON):
            if change := changes.pop(name, None):
                _LOG.warning("Resuming from %s with another %s.", checkpoint, change)
        if changes:
            raise CheckpointError(
                f"{checkpoint}: a run of other settings wrote it: {'; '.join(changes.values())}. Go on with those, or "
                f"allow the change with resume_despite: [{', '.join(changes)}]"
            )
        if "data" not in allowed and (pair_stream := saved.get("stream")):
            self._expect_pairs(checkpoint, **pair_stream)

    def _expect_pairs(self, checkpoint: str, *, pairs: int, digest: str | None) -> None:
        """Let the stream raise CheckpointError where its first pairs, which are skipped, are others than those that
        were trained on."""
        data: PairStream = self._trainer.train_dataset
        if digest is None or self._trainer.args.ignore_data_skip:
            _LOG.warning("Resuming from %s without a comparison of its pairs with the stream's.", checkpoint)
            return
        error = CheckpointError(
            f"{checkpoint}: its run was trained on other pairs than the first {pairs} of this stream; give it as it "
            "was, or allow the change with resume_despite: [data]"
        )
        data.expect(pairs, digest, error)


def decisive_arguments(args: PreferenceConfig) -> dict[str, Any]:
    """The arguments that decide what a step does, as JSON values."""
    arguments = args.to_dict()
    return {name: arguments[name] for name in _DECISIVE}


def changes_hyperparameters(args: PreferenceConfig) -> bool:
    """Whether settings of the optimizer may be others than in the run that is resumed."""
    names = ("learning_rate", "weight_decay", "adam_", "mask_", "lr_scheduler_", "warmup_")
    return any(name.startswith(names) for name in args.resume_despite or ())


@contextmanager
def kept_hyperparameters(optimizer: torch.optim.Optimizer, scheduler: Any) -> Iterator[None]:
    """Load the states of optimizer and scheduler within, and leave the rates and other settings of the optimizer as
    they are; those that the checkpoint had come with its states. Raises CheckpointError for a schedule that is no
    function of the step."""
    if not isinstance(scheduler, LambdaLR):
        raise CheckpointError(
            f"resume_despite: the rates of {type(scheduler).__name__} are part of its state, and cannot change"
        )
    settings = [{name: group[name] for name in _HYPERPARAMETERS if name in group} for group in optimizer.param_groups]
    rates = list(scheduler.base_lrs)
    yield
    scheduler.base_lrs = rates
    for group, kept, rate, schedule in zip(optimizer.param_groups, settings, rates, scheduler.lr_lambdas, strict=True):
        group.update(kept, lr=rate * schedule(scheduler.last_epoch))
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def _differences(name: str, there: Any, here: Any) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                yield from _differences(f"{name}.{key}", there.get(key), here.get(key))
    else:
        yield f"{name} ({there} there, {here} here)"


def _adapters(model: PreferenceModel) -> dict[str, Any]:
    """The settings of the policy's adapters by name: how much of what a checkpoint holds is added, and where."""
    configs = getattr(model.policy, "peft_config", {})
    settings = {name: json.loads(json.dumps(config.to_dict(), default=_plain)) for name, config in configs.items()}
    return {name: {k: v for k, v in values.items() if k not in _WHEREABOUTS} for name, values in settings.items()}


def _optimizer(class_and_options: tuple[type, dict[str, Any]] | None) -> dict[str, Any] | None:
    """An optimizer that is given by its class and keywords."""
    if class_and_options is None:
        return None
    kind, options = class_and_options
    return {"class": kind.__qualname__, **json.loads(json.dumps(options, default=_plain))}


def _plain(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)
