"""A run that is resumed although all its steps are trained: nothing is trained."""

from __future__ import annotations

from pathlib import Path

from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME


def finished_state(trainer: Trainer, checkpoint: str | None) -> tuple[str, TrainerState] | None:
    """The checkpoint and its state, where it is of the run's last step or a later one; None where steps are left."""
    if checkpoint is None or not (file := Path(checkpoint) / TRAINER_STATE_NAME).is_file():
        return None
    state = TrainerState.load_from_json(str(file))
    *_, last_step = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    if last_step is None or state.global_step < last_step:
        return None
    state.max_steps = last_step
    return checkpoint, state


def logged_mean_loss(state: TrainerState) -> float | None:
    """The mean loss of the steps that the log covers, which is a run's `train_loss`; None where it has no losses."""
    total, covered = 0.0, 0
    for entry in state.log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - covered)
            covered = entry["step"]
    return total / covered if covered else None
