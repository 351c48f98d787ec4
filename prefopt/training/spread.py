"""How the state of a run is spread over processes, in its checkpoints and now, and which of the one the other can read.

The files of a checkpoint say it: copies of a model leave one optimizer's file, FSDP a whole state by name or parts that
any number of processes divide anew, and DeepSpeed the parts of each of its processes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

from accelerate.utils.constants import FSDP_MODEL_NAME
from transformers import Trainer

from prefopt.training.manifest import CheckpointError

_LOG = logging.getLogger(__name__)

_COPIES = "copies of the model"
_WHOLE, _PARTS = (f"FSDP with state_dict_type {name}_STATE_DICT" for name in ("FULL", "SHARDED"))
_ZERO_3, _ZERO = "DeepSpeed's ZeRO-3", "DeepSpeed below ZeRO-3"

_DIVISIBLE = (_COPIES, _WHOLE, _PARTS)
"""What another number of processes can read than wrote it."""


@final
@dataclass(frozen=True)
class Spread:
    """What keeps the state, in words, and in how many processes."""

    by: str
    processes: int

    @classmethod
    def present(cls, trainer: Trainer) -> Self:
        """That of this run."""
        by, state = _COPIES, trainer.accelerator.state
        if trainer.is_deepspeed_enabled:
            by = _ZERO_3 if state.deepspeed_plugin.zero_stage == 3 else _ZERO
        elif trainer.is_fsdp_enabled:
            by = _WHOLE if state.fsdp_plugin.state_dict_type.name == "FULL_STATE_DICT" else _PARTS
        return cls(by, trainer.args.world_size)

    @classmethod
    def saved(cls, checkpoint: Path) -> Self:
        """That of the run that wrote a checkpoint: each process leaves its random states."""
        by = _COPIES
        if any(checkpoint.glob("global_step*")):
            by = _ZERO_3 if any(checkpoint.glob("global_step*/zero_pp_rank_*_model_states.pt")) else _ZERO
        elif (checkpoint / f"{FSDP_MODEL_NAME}.bin").is_file():
            by = _WHOLE
        elif any(checkpoint.glob(f"{FSDP_MODEL_NAME}_*")):
            by = _PARTS
        return cls(by, max(1, len([*checkpoint.glob("rng_state_*.pth")])))

    def __str__(self) -> str:
        return f"{self.by} on {self.processes} process{'es' * (self.processes > 1)}"


def reject_unreadable(checkpoint: str, trainer: Trainer) -> None:
    """Raise CheckpointError for a checkpoint whose state this run's processes cannot read; log what another number of
    them draws anew."""
    saved, present = Spread.saved(Path(checkpoint)), Spread.present(trainer)
    divisible = saved.by in _DIVISIBLE
    if saved.by != present.by or (saved != present and not divisible):
        number = "any number of processes" if divisible else f"{saved.processes} processes"
        if divisible and saved.by != _COPIES:
            number += ", one too: `torchrun --nproc_per_node 1`"
        policy = f", or start a new run from its policy (`model: {checkpoint}`, with the reference named)"
        raise CheckpointError(
            f"{checkpoint}: its state was saved by {saved}, and cannot be read by {present}; go on as it was saved "
            f"({number}){policy if saved.by != _PARTS else ''}"
        )
    if saved.processes != present.processes:
        _LOG.warning(
            "Resuming from %s on another number of processes (%d there, %d here): what a step draws at random, as "
            "dropout does, is drawn anew.",
            *(checkpoint, saved.processes, present.processes),
        )
