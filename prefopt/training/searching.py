"""What of a Trainer makes the policy anew for each training, and searches hyperparameters over such trainings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, enable_full_determinism, set_seed

from prefopt.scoring import PreferenceModel
from prefopt.training.callbacks import ReferenceUpdate
from prefopt.training.config import PreferenceConfig
from prefopt.training.evaluating import EvaluatingTrainer
from prefopt.training.output_folder import OutputFolderError
from prefopt.training.preflight import reject_split_step
from prefopt.training.ranges import reject_out_of_range
from prefopt.training.resume import RunSettings
from prefopt.training.updates import UpdateWatch

_READ_ONCE = """output_dir max_length max_prompt_length on_too_long chat_template_kwargs on_bad_rows columns
dataset_num_proc logits_budget_mb reference_cache shared_prefix router_aux_loss_coef model_init_kwargs
ref_adapter_name torch_compile torch_compile_backend torch_compile_mode sync_ref_model ref_model_mixup_alpha
ref_model_sync_steps""".split()
"""Arguments that are read before a trial's are set."""


def begin(args: PreferenceConfig) -> None:
    """Seed the random generators, as Trainer does before it makes a model."""
    enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)


class SearchingTrainer(EvaluatingTrainer):
    """An EvaluatingTrainer with `model_init`: `train` calls it, with the trial if it takes one, and begins with the
    policy that it returns, or of the name that it returns.

    _made        the model that training begins with
    _make_model  policy -> PreferenceModel
    """

    _made: PreferenceModel
    _make_model: Callable[[Any], PreferenceModel]
    _followers: tuple[TrainerCallback, ...] = ()

    def first_model(self, model: str | nn.Module | None, model_init: Callable[..., Any] | None) -> PreferenceModel:
        """The model that the trainer begins with: of a policy, or of what `model_init` returns. Raises ValueError
        unless there is one of the two."""
        if model is None and model_init is None:
            raise ValueError("model: none was given; give a model or its name, or model_init")
        if model is not None and model_init is not None:
            raise ValueError("model and model_init both say what the policy is; give one of them, and not both")
        self.model_init = model_init
        self._made = self._make_model(model if model_init is None else super().call_model_init())
        return self._made

    def call_model_init(self, trial: Any = None) -> PreferenceModel:
        """The model that training begins with, made by `renew` where Trainer would call `model_init`."""
        return self._made

    def follow(self, model: PreferenceModel) -> None:
        """Watch this model's updates, and let its reference follow where it is to, in place of another model's."""
        for follower in self._followers:
            self.remove_callback(follower)
        followers: list[TrainerCallback] = [UpdateWatch(model)]
        if self.args.sync_ref_model:
            mixup, every = self.args.ref_model_mixup_alpha, self.args.ref_model_sync_steps
            followers.append(ReferenceUpdate(model, mixup=mixup, every=every))
        self._followers = tuple(followers)
        for follower in followers:
            self.add_callback(follower)

    def renew(self, trial: Any) -> None:
        """Begin with a new policy and reference, mask and optimizer."""
        before = self._made
        begin(self.args)
        model = self._make_model(super().call_model_init(trial))
        model.max_length, model.mask_metrics.tokenizer = before.max_length, before.mask_metrics.tokenizer
        if self.place_model_on_device:
            self._move_model_to_device(model, self.args.device)
        self._made = self.model = self.model_wrapped = model
        self.follow(model)
        if self._settings is not None:
            self._settings = RunSettings(self)

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Trainer's, which takes `model_init` and a backend: optuna, Ray Tune or wandb. Without `compute_objective` the
        figure is `metric_for_best_model`, or else `eval_loss`: Trainer's would add up all metrics.

        Raises ValueError for hyperparameters that are no training arguments, or are read before a trial begins, and
        OutputFolderError where the output folder holds trials already that may not be overwritten.
        """
        name = f"eval_{(self.args.metric_for_best_model or 'loss').removeprefix('eval_')}"
        earlier = [path for path in Path(self.args.output_dir).glob("run-*") if [*path.glob("checkpoint-*")]]
        if earlier and not self.args.overwrite_output_dir:
            raise OutputFolderError(
                f"{self.args.output_dir} holds trials of a search already ({earlier[0].name}); choose another folder, "
                "or set overwrite_output_dir"
            )
        for path in earlier:
            shutil.rmtree(path)
        return super().hyperparameter_search(hp_space, compute_objective or (lambda metrics: metrics[name]), **kwargs)

    def _hp_search_setup(self, trial: Any) -> None:
        if self.hp_search_backend is not None and trial is not None:
            values = trial if isinstance(trial, dict) else self.hp_space(trial)
            for name in values:
                if name in _READ_ONCE:
                    raise ValueError(f"hp_space: {name} is read before a trial begins; make a trainer for each value")
                if not hasattr(self.args, name) and name != "wandb":
                    raise ValueError(
                        f"hp_space: {name!r} is no training argument, and nothing would read it; fields of the "
                        "objective are swept by `prefopt compare`"
                    )
        super()._hp_search_setup(trial)
        reject_out_of_range(self.args)
        reject_split_step(self._made.objective.config, self.args)
