"""Room on the disk: asked for before training, and a write that fails is one line."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError
from torch import Tensor
from transformers import TrainerCallback, TrainerState, TrainingArguments

from prefopt.training.lost_process import is_lost_process
from prefopt.validation import one_line
from prefopt.whole_files import FULL, UNFINISHED, file_size_limit, free_bytes, publish_files, remove, room

_LOG = logging.getLogger(__name__)

_SYSTEM_ERROR = re.compile(r"os error (\d+)")

_SHARD = 50 * 10**9
"""Bytes at which transformers divides a model over several files."""

_STATES = 2
"""Tensors of a parameter's size that Adam keeps."""


@final
class SaveError(OSError):
    """A checkpoint or policy that could not be written."""


@contextmanager
def explained(what: str, folder: Path) -> Iterator[None]:
    """Raise SaveError, with the bytes that are free, for a failure to write into the folder: safetensors and torch have
    errors of their own for a disk that is full. An error of the connection to another process is left as it is."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_lost_process(error):
            raise
        reason = one_line(error) or type(error).__name__
        raise SaveError(
            f"{folder}: {what} could not be written ({reason}; {room(folder)}); what was saved before is as it was"
        ) from error


def full_disk(error: BaseException | None) -> OSError | None:
    """What says, among the causes of an error, that no more can be written."""
    while error is not None:
        number = _SYSTEM_ERROR.search(str(error)) if isinstance(error, SafetensorError) else None
        if number is not None and int(number[1]) in FULL:  # its own class has it in the text alone
            return OSError(int(number[1]), os.strerror(int(number[1])))
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def save_elsewhere(error: SaveError, folder: Path, name: str, save: Callable[[str], None]) -> SaveError:
    """The error, which says where the policy is instead: in the first of the output folder, the temporary folder and
    the home folder that takes it, in a new folder of that name."""
    for parent in (folder, Path(tempfile.gettempdir()), Path.home()):
        kept = None
        try:
            kept = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
            save(str(kept / UNFINISHED))
            publish_files(kept / UNFINISHED, kept)
            remove(kept / UNFINISHED)
        except (OSError, RuntimeError, SafetensorError):
            if kept is not None:
                shutil.rmtree(kept, ignore_errors=True)
            continue
        return SaveError(f"{error}; the policy is in {kept}")
    return SaveError(f"{error}; no other folder took the policy")


@final
class RoomOnDisk(TrainerCallback):
    """Raises SaveError, before the first step, where the output folder's disk has less room than the policy and one
    checkpoint take without the optimizer's state; logs where it has less than all planned checkpoints take with it."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: object, model: Any = None, **kwargs: Any
    ) -> None:
        """Compare them."""
        policy, parameters = model.policy, [*model.parameters()]
        trained = _bytes(parameter for parameter in parameters if parameter.requires_grad)
        written = trained
        if not hasattr(policy, "peft_config"):
            written += _bytes(parameter for parameter in policy.parameters() if not parameter.requires_grad)
        checkpoints = _checkpoints(args, state)
        free, least = free_bytes(Path(args.output_dir)), written * (1 + min(checkpoints, 1))
        if free < least:
            parts = "the policy and a checkpoint take" if checkpoints else "the policy takes"
            raise SaveError(
                f"{args.output_dir}: {free:,} bytes are free, and {parts} {least:,} without an optimizer's state; "
                "make room, or choose another output_dir"
            )
        limit, largest = file_size_limit(), min(written, _SHARD)
        if limit is not None and limit < largest:
            raise SaveError(
                f"{args.output_dir}: a file may have {limit:,} bytes (ulimit -f), and the policy's takes {largest:,}; "
                "raise the limit"
            )
        planned = written + checkpoints * (written + (0 if args.save_only_model else _STATES * trained))
        if free < planned:
            _LOG.warning(
                "%s: %s bytes are free, and the policy and %d checkpoints of an optimizer such as Adam take some %s. "
                "Make room, or set save_total_limit.",
                *(args.output_dir, f"{free:,}", checkpoints, f"{planned:,}"),
            )


def _checkpoints(args: TrainingArguments, state: TrainerState) -> int:
    """Those that stand at once: one that is being written is beside those that are kept."""
    number = {
        "no": 0,
        "steps": state.max_steps // max(int(state.save_steps), 1),
        "epoch": state.num_train_epochs,
        "best": state.max_steps // max(int(state.eval_steps or 1), 1),
    }[args.save_strategy]
    return min(number, args.save_total_limit + 1) if args.save_total_limit else number


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
