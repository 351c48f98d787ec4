"""What of a Trainer publishes a policy: the card of every save, and uploads to the hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, SaveStrategy
from transformers.utils.hub import PushInProgress

from prefopt.data import DataReport, DataSource, PairStream
from prefopt.metrics import Mean, MetricSums
from prefopt.objective import ObjectiveOutput
from prefopt.scoring.zero import gathered
from prefopt.training.card_file import CARD, publish_card
from prefopt.training.card_sections import Figures
from prefopt.training.metrics import flush
from prefopt.training.model_card import CardFacts, model_card
from prefopt.training.saving import SavingTrainer
from prefopt.training.upload import create_repository, remove_unfinished, upload_checkpoint, upload_policy
from prefopt.whole_files import publish_text

_LOG = logging.getLogger(__name__)

_LAST_CHECKPOINT = "last-checkpoint"


class PublishingTrainer(SavingTrainer):
    """A SavingTrainer whose saves have a model card, and that uploads them to the hub where it is asked to.

    data_reports  of the data sets, by name
    data_sources  where they come from, by name; the card says so
    """

    data_reports: dict[str, DataReport]
    data_sources: dict[str, DataSource]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._figures: dict[str, Figures] = {}
        self._card_options: dict[str, Any] = {}
        self._reference_sums = MetricSums()
        super().__init__(*args, **kwargs)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write README.md into the output folder; further saves keep these options. `tasks`, `dataset` and
        `dataset_args` describe results of tasks in Trainer's own card, and have no effect here."""
        for name, value in {"tasks": tasks, "dataset": dataset, "dataset_args": dataset_args}.items():
            if value is not None:
                _LOG.warning("create_model_card: nothing reads %s; the card's figures are those of the pairs", name)
        options = {
            "language": language,
            "license": license,
            "model_name": model_name,
            "base_model": finetuned_from,
            "tags": _listed(tags),
            "datasets": _listed(dataset_tags),
        }
        self._card_options |= {name: value for name, value in options.items() if value is not None}
        if self.is_world_process_zero() and (text := self._card()) is not None:
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            publish_card(text, folder)

    def add_reference(self, output: ObjectiveOutput) -> None:
        """Add what the objective says of an evaluation batch where the policy is the reference."""
        objective = self.accelerator.unwrap_model(self.model).objective
        if not objective.config.reference_free:
            with torch.no_grad(), gathered(objective):
                reference = objective.at_reference(output.tokens)
            self._reference_sums.add(reference.metrics | {"loss": Mean.from_values(reference.losses)})

    def note_figures(self, prefix: str, metrics: Mapping[str, float]) -> None:
        """Keep the figures of an evaluation, whose metrics have a prefix, and the reference's for the card. A
        collective."""
        reference = flush(self._reference_sums, self.accelerator)
        policy = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
        self._figures[prefix] = Figures(self.state.global_step, policy, reference)

    def evaluated(self) -> dict[str, float]:
        """The metrics of the evaluations of the policy as it is, without their seconds; empty where there is none."""
        if self.args.load_best_model_at_end:
            return {}
        return {
            f"{prefix}_{name}": value
            for prefix, figures in self._figures.items()
            if figures.step == self.state.global_step and prefix.startswith("eval")
            for name, value in figures.policy.items()
        }

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Trainer's. Raises UploadError where the repository can be neither made nor used."""
        if self.is_world_process_zero() and not self.args.dry_run:
            folder = Path(self.args.output_dir).absolute()
            remove_unfinished(folder)
            self.hub_model_id = create_repository(
                self.args.hub_model_id or folder.name,
                token=self.args.hub_token if token is None else token,
                private=self.args.hub_private_repo if private is None else private,
            )
            self.push_in_progress = None

    def save_locally(self, output_dir: str | None = None) -> None:
        """`save_model` without its upload."""
        super().save_model(output_dir)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's: with push_to_hub, what was saved is uploaded too. Raises what SavingTrainer's raises, and
        UploadError."""
        super().save_model(output_dir, _internal_call)
        if self.args.push_to_hub and not _internal_call:
            self._push(Path(output_dir or self.args.output_dir), "Model save")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card_options: Any,
    ) -> Any:
        """Trainer's: save the policy with its card, and upload what `upload_policy` does. Raises UploadError."""
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_locally()
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**card_options)
        folder = Path(self.args.output_dir)
        return self._push(folder, commit_message, blocking=blocking, token=token, revision=revision)

    def push_saved(self, commit_message: str = "End of training") -> None:
        """Upload what is saved in the output folder. Raises UploadError."""
        self._push(Path(self.args.output_dir), commit_message)

    def _push(
        self,
        folder: Path,
        commit_message: str | None,
        *,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
    ) -> Any:
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()
        options = {"token": token or self.args.hub_token, "revision": revision or self.args.hub_revision}
        return upload_policy(folder, self.hub_model_id, blocking=blocking, commit_message=commit_message, **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing, as the checkpoint has no name yet; see `_save_checkpoint`."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if not self.args.push_to_hub or not self.is_world_process_zero():
            return
        strategy, in_progress = HubStrategy(self.args.hub_strategy), self.push_in_progress
        is_busy = in_progress is not None and not in_progress.is_done()
        if strategy is HubStrategy.END or (is_busy and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        by_step = self.args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if by_step else f"epoch {int(self.state.epoch)}"
        options = {"blocking": False, "token": self.args.hub_token, "revision": self.args.hub_revision}
        message = f"Training in progress, {when}"
        jobs = [upload_policy(folder, self.hub_model_id, commit_message=message, **options)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            path = _LAST_CHECKPOINT if strategy is HubStrategy.CHECKPOINT else folder.name
            message += ", checkpoint"
            jobs.append(upload_checkpoint(folder, self.hub_model_id, path, commit_message=message, **options))
        if in_progress is not None and is_busy:
            in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save and (text := self._card()) is not None:
            publish_text(text, Path(output_dir or self.args.output_dir) / CARD)

    def _card(self) -> str | None:
        """The card's text; None, which is logged, where it cannot be made: a policy is not lost for its card."""
        facts = CardFacts(
            pairs=self._pairs(),
            reports=self.data_reports,
            sources=self.data_sources,
            digest=None if self._settings is None else self._settings.values["data"],
            steps=self.state.global_step,
            figures=self._figures,
            log=self.state.log_history,
            repository=self.hub_model_id or self.args.hub_model_id,
            options=self._card_options,
        )
        try:
            return model_card(self.accelerator.unwrap_model(self.model), self.args, facts)
        except Exception as error:  # a plugin's, of what it says of its components, among others
            _LOG.warning("%s: it is not written (%s: %s)", CARD, type(error).__name__, error)
            return None

    def _pairs(self) -> dict[str, int]:
        evaluation = self.eval_dataset
        sets = {f"eval-{name}": data for name, data in evaluation.items()} if isinstance(evaluation, Mapping) else {}
        sets = {"train": self.train_dataset, **(sets or {"eval": evaluation})}
        return {n: d.kept if isinstance(d, PairStream) else len(d) for n, d in sets.items() if d is not None}


def _listed(values: str | list[str] | None) -> list[str] | None:
    return [values] if isinstance(values, str) else values
