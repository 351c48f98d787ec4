"""PreferenceTrainer: a transformers.Trainer over a PreferenceModel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from peft import PeftConfig
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import PredictionOutput

from prefopt.data import DataError, PairStream, PreferenceCollator, is_stream
from prefopt.metrics import MetricSums
from prefopt.objective import Objective, ObjectiveOutput
from prefopt.objective_config import ObjectiveConfig
from prefopt.progress import reporting_to
from prefopt.tokens import PreferenceBatch
from prefopt.training.argument_conditions import reject_unspread
from prefopt.training.callbacks import MarginWatch, WarmupWatch, drift
from prefopt.training.config import PreferenceConfig
from prefopt.training.data_sets import DataSets
from prefopt.training.evaluating import check_metrics_options, naming_predictions
from prefopt.training.finished import finished_state
from prefopt.training.finite_steps import require_finite_weights
from prefopt.training.first_batch import check_first_batch
from prefopt.training.loading import load_tokenizer
from prefopt.training.metrics import batch_metrics, flush, log_histograms
from prefopt.training.optimizer import frozen, parameter_groups
from prefopt.training.preflight import (
    check_optimizer,
    check_optimizer_class,
    reject_no_step,
    reject_other_arguments,
    reject_other_tokens,
    reject_other_types,
    reject_unusable_settings,
    reject_unused_options,
)
from prefopt.training.reference_cache import fill_reference_cache
from prefopt.training.run_lock import locked
from prefopt.training.searching import SearchingTrainer, begin
from prefopt.training.streaming import reject_unstreamable
from prefopt.training.trainer_inputs import (
    ensure_pad_token,
    longest_row,
    model_maker,
    reference_loader,
)
from prefopt.training.updates import reject_untrainable


class PreferenceTrainer(SearchingTrainer):
    """Trains a policy on preference pairs under any objective.

    >>> trainer = PreferenceTrainer("gpt2", objective=zoo.sparsepo(), train_dataset=rows)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP

    model, ref_model  causal LMs, PeftModels, or their names; without `ref_model` the reference is the model as it was
                      given (for adapters, see `prefopt.training.adapters`)
    objective         an ObjectiveConfig, or a loaded Objective
    train_dataset     rows with prompt, chosen, rejected and the columns that the objective reads (see the page on
                      data), or a data set of `prepare`
    eval_dataset      the same, or a mapping of several by name
    processing_class  the tokenizer; None: that of the model's name
    peft_config       trains a new adapter; the reference is then the model with that adapter off
    data_collator     None: PreferenceCollator
    model_init        in place of `model`: a function that returns the policy, with which each training begins; it may
                      take the trial of `hyperparameter_search`
    compute_metrics, preprocess_logits_for_metrics   are called with `pair_predictions`; labels are the pairs' numbers

    All else is Trainer's. Losses are means over the pairs of the whole step, whatever the accumulation.
    `trainer.model` is the PreferenceModel, `trainer.model.policy` the policy. A checkpoint is the policy's own
    `save_pretrained`, with the objective beside it. `data_reports` holds the DataReport of each data set by name.
    """

    def __init__(
        self,
        model: str | nn.Module | None = None,
        ref_model: str | nn.Module | None = None,
        *,
        objective: ObjectiveConfig | Objective,
        args: PreferenceConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        data_collator: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        model_init: Callable[..., str | nn.Module] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
    ) -> None:
        args = PreferenceConfig() if args is None else args
        reject_other_arguments(args, compute_loss_func, processing_class)
        reject_other_types(objective, train_dataset=train_dataset, eval_dataset=eval_dataset)
        is_plain = (
            type(self).evaluate is PreferenceTrainer.evaluate and not callbacks and compute_metrics is None
        )  # others add metrics of their own
        sets = eval_dataset if isinstance(eval_dataset, Mapping) else [""] if eval_dataset is not None else []
        reject_unusable_settings(objective, args, sets if is_plain else [])
        if is_stream(train_dataset):
            reject_unstreamable(args)
        check_metrics_options(compute_metrics, args)
        check_optimizer_class(optimizer_cls_and_kwargs, args)
        begin(args)  # masks and adapters are initialised here, before Trainer sets the seed itself
        self._make_model = model_maker(ref_model, objective, peft_config, args, several=model_init is not None)
        module = self.first_model(model, model_init)
        self._load_reference = reference_loader(model, ref_model, args)
        reject_unused_options(module, args)
        check_optimizer(optimizers[0], module, args)
        name = model if isinstance(model, str) else module.config._name_or_path
        tokenizer = ensure_pad_token(processing_class or load_tokenizer(name))
        reject_other_tokens(tokenizer, ref_model)
        module.mask_metrics.tokenizer = tokenizer
        config = module.objective.config
        self._prepared = DataSets(module, tokenizer, args)
        self.data_reports, self.data_sources = self._prepared.reports, self._prepared.sources
        with args.main_process_first(desc="preparing the data"):
            if isinstance(train_dataset, Mapping):
                raise DataError(f"train_dataset: found sets named {', '.join(train_dataset)}; give one of them")
            train = self._prepared(train_dataset, "train")
            evaluation = self._prepared(eval_dataset, "eval")
        if train is not None and not isinstance(train, PairStream):
            reject_no_step(train, args)
        evaluations = list(evaluation.values()) if isinstance(evaluation, Mapping) else [evaluation]
        module.max_length = longest_row([data for data in (train, *evaluations) if data], args)
        super().__init__(
            model=module if model_init is None else None,
            model_init=model_init,
            args=args,
            data_collator=data_collator or PreferenceCollator(tokenizer.pad_token_id, config.columns),
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            compute_metrics=naming_predictions(compute_metrics),
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        reject_unspread(self.accelerator, args)
        self.add_callback(MarginWatch())
        self.add_callback(WarmupWatch())
        self.follow(module)
        # `compute_loss` divides by the pairs of the whole step itself, so that 1 x 8 and 8 x 1 give the same gradient.
        self.loss_is_scaled_for_ga = True
        self._last: ObjectiveOutput | None = None
        self._sums = {"train": MetricSums(), "eval": MetricSums()}
        self.guard_steps(self._sums["train"])

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trainer's; `eval_dataset` is as for the constructor, or the name of one of several given there."""
        metrics: dict[str, float] = super().evaluate(self._prepared(eval_dataset, "evaluation"), *args, **kwargs)
        return metrics

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Trainer's, on rows as for the constructor: `pair_predictions` as arrays, and the pairs' numbers as labels."""
        return super().predict(self._prepared(test_dataset, "test"), *args, **kwargs)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Trainer's, after the reference cache is filled; without a checkpoint, from that of the arguments. From a
        checkpoint of the last step nothing is trained: the policy is that checkpoint's, and the output has no metrics.

        Raises CheckpointError where the checkpoint is not whole or another run's, OutputFolderError where the output
        folder holds another run, or one trains there, ValueError where nothing of the policy trains, RuntimeError where
        its first step changes nothing of it, and FloatingPointError where a loss, a gradient (before the optimizer's
        step) or a weight is not finite, or all steps were left out for that.
        """
        if self.args.dry_run:
            raise ValueError("this trainer is of a dry run, and would write nothing; start(run) makes one that trains")
        if self.train_dataset is None:
            raise ValueError("train_dataset: none was given, and training needs pairs; this trainer evaluates alone")
        if self.model_init is not None:
            self.renew(trial)
            self._last = None
        reject_untrainable(self.accelerator.unwrap_model(self.model).policy)
        with nullcontext() if trial is not None else locked(self.args):  # trials of a search share a folder
            checkpoint = self.checkpoint_to_resume(resume_from_checkpoint)
            if finished := finished_state(self, checkpoint):
                return self.take_over(*finished)
            self.precompute_reference()
            with reporting_to(None):  # Trainer has a bar of its own
                output = super().train(checkpoint, trial, *args, **kwargs)
            require_finite_weights(self, f"step {self.state.global_step}, the last")
        return output

    def precompute_reference(self) -> None:
        """Fill the reference cache, if any, for all data sets; a reference that can be reloaded is then released."""
        if self.args.reference_cache is None:
            return
        evaluations = self.eval_dataset.values() if isinstance(self.eval_dataset, Mapping) else [self.eval_dataset]
        data = [dataset for dataset in (self.train_dataset, *evaluations) if dataset is not None]
        model = self.accelerator.unwrap_model(self.model)
        batch_size = self.args.per_device_eval_batch_size
        fill_reference_cache(model, data, self.data_collator, self.accelerator, batch_size=batch_size)
        if model.reference is not None and self._load_reference is not None:
            model.release_reference(self._load_reference)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum of the batch's losses over the pairs of the whole step; outside training, the batch's mean."""
        batch = PreferenceBatch.from_mapping(inputs)
        self.accelerator.unwrap_model(model).raises_non_finite = not model.training  # a step is judged as a whole
        output: ObjectiveOutput = model(batch)
        self._sums["train" if model.training else "eval"].add(output.metrics | batch_metrics(batch))
        if not model.training:
            self.add_reference(output)
        loss = output.loss
        if num_items_in_batch is not None:
            # Gradients are averaged over processes; the count is over all processes.
            loss = loss * batch.pairs / num_items_in_batch * self.accelerator.num_processes
        if model.training:
            if self.state.global_step == 0 and self._last is None:
                check_first_batch(self.accelerator.unwrap_model(self.model).objective, output)
            self._last = output
            self._guard.add(batch, output)
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, with the objective's metrics in logs of training, and histograms for TensorBoard."""
        if "loss" in logs:
            self._guard.correct(logs)
            logs |= flush(self._sums["train"], self.accelerator)
            logs |= drift(self.accelerator.unwrap_model(self.model).objective, logs, self.state.log_history)
            if self._last is not None:
                log_histograms(self.callback_handler.callbacks, self._last, self.state.global_step)
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimizer for the policy, with further groups for the objective's parameters."""
        if self.optimizer is None:
            objective = self.accelerator.unwrap_model(model or self.model).objective
            with frozen(objective):  # Trainer's groups hold what requires a gradient
                optimizer: torch.optim.Optimizer = super().create_optimizer(model)
            for group in parameter_groups(objective, self.get_decay_parameter_names(objective), self.args):
                optimizer.add_param_group(group)
        return self.optimizer

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """Trainer's, without compiling the step as a whole: with torch_compile its parts are compiled."""
        return super()._build_accelerator_args(**kwargs) | {"dynamo_plugin": TorchDynamoPlugin(backend="no")}
