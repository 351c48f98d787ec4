"""A run that is resumed although all its steps are trained: nothing is trained."""

from __future__ import annotations

from pathlib import Path

from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint


def finished_state(trainer: Trainer, checkpoint: str | bool | None) -> tuple[str, TrainerState] | None:
    """The checkpoint's folder and state, where it is of the run's last step or a later one; None where steps are left.

    checkpoint  true: the last one of the output folder
    """
    folder = get_last_checkpoint(trainer.args.output_dir) if checkpoint is True else checkpoint
    if not folder or not (file := Path(folder) / TRAINER_STATE_NAME).is_file():
        return None
    state = TrainerState.load_from_json(str(file))
    *_, last_step = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    if last_step is None or state.global_step < last_step:
        return None
    state.max_steps = last_step
    return str(folder), state
