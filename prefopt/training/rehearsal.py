"""A dry run: what is checked between the start of training and its first step, and no step."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

from transformers import TrainerState

from prefopt.data import PairStream
from prefopt.training.disk import RoomOnDisk
from prefopt.training.trainer import PreferenceTrainer
from prefopt.training.updates import reject_untrainable
from prefopt.training.upload import require_login

_LOG = logging.getLogger(__name__)


def rehearse(trainer: PreferenceTrainer) -> None:
    """Check that something trains, that the checkpoint to go on from is whole and fits, that a stream begins with pairs
    that can be used, that somebody is logged in where the run uploads, and that the disk has room; `trainer.state` then
    has the number of steps."""
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    reject_untrainable(model.policy)
    trainer.checkpoint_to_resume(None)
    if isinstance(trainer.train_dataset, PairStream):
        list(islice(trainer.train_dataset, args.train_batch_size))
    epochs, *_, steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    trainer.state = TrainerState(max_steps=steps, num_train_epochs=epochs)
    trainer.state.compute_steps(args, steps)
    if args.push_to_hub:
        user, repository = require_login(args.hub_token), args.hub_model_id or Path(args.output_dir).absolute().name
        _LOG.info("hub: %s would upload to %s (hub_strategy %s)", user, repository, args.hub_strategy.value)
    RoomOnDisk().on_train_begin(args, trainer.state, None, model=model)
