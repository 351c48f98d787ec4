"""What of a Trainer saves and loads a PreferenceModel: whole files, and none of weights that are not finite."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from prefopt.scoring import PreferenceModel
from prefopt.training.card_file import keep_changed_card
from prefopt.training.checkpoints import load_checkpoint, save_checkpoint
from prefopt.training.disk import RoomOnDisk, SaveError, explained, save_elsewhere
from prefopt.training.finite_steps import require_finite_weights
from prefopt.training.manifest import Manifest
from prefopt.training.output_folder import ClearedFolder, reject_output_folder
from prefopt.training.resume import RunSettings, changes_hyperparameters, checkpoint_to_resume, kept_hyperparameters
from prefopt.training.spread import reject_unreadable
from prefopt.training.writable import reject_unwritable
from prefopt.whole_files import UNFINISHED, publish_files, publish_folder, publish_text, remove, retract


class SavingTrainer(Trainer):
    """A transformers.Trainer that saves a PreferenceModel: the policy as its own `save_pretrained` does, with the
    objective beside it."""

    _unfinished: Path | None = None
    _settings: RunSettings | None = None

    def checkpoint_to_resume(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """The checkpoint from which training goes on, which is whole and written by a run of the same settings; None:
        it starts anew. Raises CheckpointError, and OutputFolderError where the output folder holds another run or
        cannot be written to."""
        if self._settings is None:
            reject_unwritable(self.args)
        checkpoint = checkpoint_to_resume(self.args, resume_from_checkpoint)
        if self._settings is None:
            self._settings = RunSettings(self)
            if self.args.should_save:
                asked = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
                resumes = asked not in (None, False, "no", "false")
                reject_output_folder(self.args, self._model_folders(), resumed=checkpoint, resumes=resumes)
                self.callback_handler.callbacks.insert(0, ClearedFolder())
                self.add_callback(RoomOnDisk())
        if checkpoint is not None:
            reject_unreadable(checkpoint, self)
            self._settings.reject_changes(checkpoint)
        return checkpoint

    def _model_folders(self) -> dict[str, str | None]:
        """The names of the models, as far as they are folders."""
        model: PreferenceModel = self.accelerator.unwrap_model(self.model)
        names = {"model": model.policy, "reference": model.reference}
        paths = {role: getattr(getattr(lm, "config", None), "_name_or_path", None) for role, lm in names.items()}
        return {role: path for role, path in paths.items() if path and Path(path).is_dir()}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's. Raises NonFiniteWeightsError, before anything is written, where a weight is not finite, and
        SaveError where the folder cannot be written."""
        folder = Path(output_dir or self.args.output_dir)
        name = Path(*(part for part in folder.parts if part != UNFINISHED))
        require_finite_weights(self, f"{name}: the policy is not saved there")
        if _internal_call:  # a checkpoint
            super().save_model(str(folder), _internal_call)
            return
        try:
            with explained("the policy", folder):
                self._save_whole(folder)
        except SaveError as error:
            raise self._policy_elsewhere(error) from error.__cause__

    def save_state(self) -> None:
        """Trainer's, whole or not at all."""
        if self.args.should_save:
            text = json.dumps(dataclasses.asdict(self.state), indent=2, sort_keys=True) + "\n"
            publish_text(text, Path(self.args.output_dir) / TRAINER_STATE_NAME)

    def _save_whole(self, folder: Path) -> None:
        beside, sharded = folder / UNFINISHED, self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.args.should_save:
            remove(beside)
        if sharded:  # every process may write
            self.accelerator.wait_for_everyone()
        try:
            if self.is_fsdp_enabled:  # Trainer's saves no policy where checkpoints are in parts
                self._save(str(beside), self.accelerator.get_state_dict(self.model))
            else:
                super().save_model(str(beside), _internal_call=True)  # without an upload
            if sharded:
                self.accelerator.wait_for_everyone()
            if self.args.should_save:
                keep_changed_card(beside, folder)
                publish_files(beside, folder)
        finally:
            if self.args.should_save:
                remove(beside)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._unfinished is None else str(self._unfinished)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's, in a folder beside the checkpoint's, which gets its name once all processes have written."""
        folder = Path(self._get_output_dir(trial))
        try:
            with explained(f"the checkpoint of step {self.state.global_step}", folder):
                self._save_whole_checkpoint(model, trial, folder)
        except SaveError as error:
            raise self._policy_elsewhere(error) from error.__cause__
        if self.args.should_save:
            self._remove_older(folder)
        self.accelerator.wait_for_everyone()

    def _save_whole_checkpoint(self, model: nn.Module, trial: Any, folder: Path) -> None:
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
                self._settings = self._settings or RunSettings(self)
                Manifest.write(beside / name, step=self.state.global_step, settings=self._settings.values)
                publish_folder(beside / name, folder / name)
        finally:
            self._unfinished = None
            if self.args.should_save:
                remove(beside)

    def _policy_elsewhere(self, error: SaveError) -> SaveError:
        """The error, once the policy is saved where there is room for it. What is spread over processes is gathered by
        all of them, and one of them alone has the error."""
        if self.accelerator.num_processes > 1:
            return error
        folder = Path(self.args.output_dir)
        return save_elsewhere(error, folder, f"{folder.name}-step-{self.state.global_step}", self._save)

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
        if self.is_fsdp_enabled:  # into the parts of all processes; its manifest says which objective it is of
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        unwrapped: PreferenceModel = self.accelerator.unwrap_model(model or self.model)
        other_objective = "objective" in (self.args.resume_despite or ())
        following = self.args.sync_ref_model
        load_checkpoint(unwrapped, resume_from_checkpoint, with_reference=following, other_objective=other_objective)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Trainer's, but for settings of the optimizer that may differ: they are this run's, and not those that the
        checkpoint's state holds."""
        changed = checkpoint is not None and changes_hyperparameters(self.args)
        with kept_hyperparameters(self.optimizer, self.lr_scheduler) if changed else nullcontext():
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
