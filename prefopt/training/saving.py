"""What of a Trainer saves and loads a PreferenceModel: whole files, and none of weights that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from prefopt.scoring import PreferenceModel
from prefopt.training.checkpoints import load_checkpoint, save_checkpoint
from prefopt.training.finite_steps import require_finite_weights
from prefopt.training.whole_files import UNFINISHED, publish_files, publish_folder, remove, retract


class SavingTrainer(Trainer):
    """A transformers.Trainer that saves a PreferenceModel: the policy as its own `save_pretrained` does, with the
    objective beside it."""

    _unfinished: Path | None = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's. Raises NonFiniteWeightsError, before anything is written, where a weight is not finite."""
        folder = Path(output_dir or self.args.output_dir)
        name = Path(*(part for part in folder.parts if part != UNFINISHED))
        require_finite_weights(self, f"{name}: the policy is not saved there")
        if _internal_call or self.is_deepspeed_enabled:  # a checkpoint; or every process writes, when it likes
            super().save_model(str(folder), _internal_call)
            return
        beside = folder / UNFINISHED
        if self.args.should_save:
            remove(beside)
        try:
            super().save_model(str(beside), _internal_call)
            if self.args.should_save and beside.is_dir():  # FSDP without a full state writes none
                publish_files(beside, folder)
        finally:
            if self.args.should_save:
                remove(beside)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._unfinished is None else str(self._unfinished)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's, in a folder beside the checkpoint's, which gets its name once all processes have written."""
        folder = Path(self._get_output_dir(trial))
        beside, name = folder / UNFINISHED, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            remove(beside)
        self.accelerator.wait_for_everyone()
        self._unfinished = beside
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            is_best = self.state.best_model_checkpoint == str(beside / name)
            if is_best:
                self.state.best_model_checkpoint = str(folder / name)
            if self.args.should_save:
                if is_best:
                    self.state.save_to_json(str(beside / name / TRAINER_STATE_NAME))
                publish_folder(beside / name, folder / name)
        finally:
            self._unfinished = None
            if self.args.should_save:
                remove(beside)
        if self.args.should_save:
            self._remove_older(folder)
        self.accelerator.wait_for_everyone()

    def _remove_older(self, folder: Path) -> None:
        """Remove checkpoints beyond `save_total_limit`, never the latest or the best. Each loses its name first:
        Trainer's rotation, when it is killed, leaves half of one under its name."""
        limit, best = self.args.save_total_limit or 0, self.state.best_model_checkpoint
        checkpoints = [Path(path) for path in sort_checkpoints(str(folder), use_mtime=True)]
        kept = {checkpoints[-1], *([Path(best)] if best else [])}
        removable = [path for path in checkpoints if path not in kept]
        excess = len(checkpoints) - max(limit, len(kept)) if limit > 0 else 0
        for path in removable[: max(excess, 0)]:
            retract(path, folder / UNFINISHED)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        model: PreferenceModel = self.accelerator.unwrap_model(self.model)
        save_checkpoint(model, folder, state_dict, with_reference=self.args.sync_ref_model)
        self.processing_class.save_pretrained(folder)
        torch.save(self.args.without_tokens(), f"{folder}/training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        unwrapped: PreferenceModel = self.accelerator.unwrap_model(model or self.model)
        load_checkpoint(unwrapped, resume_from_checkpoint, with_reference=self.args.sync_ref_model)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
