"""What of a Trainer evaluates: the losses and metrics of pairs, and the predictions that `compute_metrics` reads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prefopt.metrics import MetricSums
from prefopt.objective import ObjectiveOutput
from prefopt.tokens import PreferenceBatch, masked_sum
from prefopt.training.config import PreferenceConfig
from prefopt.training.finite_steps import locate_errors
from prefopt.training.judging import JudgingTrainer
from prefopt.training.metrics import flush

_LOG = logging.getLogger(__name__)

_PREDICTIONS = (
    "`predictions` are a mapping here, of arrays of one number a pair: rewards/chosen, rewards/rejected, logps/chosen "
    "and logps/rejected; `label_ids` are the pairs' numbers in the data set"
)
_OF_COMPUTE_METRICS = ("include_for_metrics", "batch_eval_metrics")


def pair_predictions(output: ObjectiveOutput) -> dict[str, Tensor]:
    """Rewards and log-probabilities of the responses, summed over tokens: four entries of one number a pair [B], named
    as their metrics are."""
    logps = masked_sum(output.tokens.logps, output.tokens.mask)
    parts = {"rewards": output.rewards.chunk(2), "logps": logps.chunk(2)}
    sides = ("chosen", "rejected")
    return {
        f"{name}/{side}": part.detach().float()
        for name, pair in parts.items()
        for side, part in zip(sides, pair, strict=True)
    }


def check_metrics_options(compute_metrics: Callable[..., Any] | None, args: PreferenceConfig) -> None:
    """Raise ValueError where `compute_metrics` would never be called; log what only it would read."""
    if compute_metrics is not None and args.prediction_loss_only:
        raise ValueError(
            "compute_metrics is called with predictions, and prediction_loss_only keeps none; leave one of them out"
        )
    for name in _OF_COMPUTE_METRICS:
        if compute_metrics is None and getattr(args, name):
            _LOG.warning("%s has no effect: it is read with compute_metrics", name)


def naming_predictions(compute_metrics: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The function, whose errors get a note of what it is called with: metrics that were written for a trainer whose
    predictions are logits fail at the first evaluation."""
    if compute_metrics is None:
        return None

    @wraps(compute_metrics)
    def computed(*args: Any, **kwargs: Any) -> Any:
        try:
            return compute_metrics(*args, **kwargs)
        except Exception as error:
            error.add_note(f"compute_metrics: {_PREDICTIONS}")
            raise

    return computed


class EvaluatingTrainer(JudgingTrainer):
    """A JudgingTrainer that evaluates pairs. `compute_loss` adds the metrics of each batch to `_sums`."""

    _sums: dict[str, MetricSums]

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor] | None, Tensor | None]:
        """The loss of an evaluation batch, whose metrics are accumulated; with its `pair_predictions`, and as labels
        the pairs' numbers in the data set [B], unless the loss alone is asked for.

        Of several processes' last batch, the pairs that fill it up are left out: predictions have zeros in their place,
        which Trainer drops.
        """
        inputs = self._prepare_inputs(inputs)
        rows = PreferenceBatch.from_mapping(inputs).rows
        number = self._first_seen(len(rows))
        with torch.no_grad(), self.compute_loss_context_manager(), ExitStack() as stack:
            if number == 0:  # the forward pass is that of all processes
                for sums in (self._sums["eval"], self._reference_sums):
                    stack.enter_context(sums.unchanged())
            elif number < len(rows):
                inputs = {name: values[:number] for name, values in inputs.items()}
            loss, output = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        predictions = {
            name: torch.nn.functional.pad(values, (0, len(rows) - len(values)))
            for name, values in pair_predictions(output).items()
            if name not in (ignore_keys or ())
        }
        return loss.detach(), predictions, rows

    def _first_seen(self, pairs: int) -> int:
        """How many of a batch's pairs are seen for the first time: accelerate fills up the last batch of all processes
        with pairs of the first, of which this is the same share as `gather_for_metrics` takes."""
        state, index = self.accelerator.gradient_state, self.accelerator.process_index
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return pairs
        return min(max(state.remainder - index * pairs, 0), pairs)

    def evaluation_loop(
        self, dataloader: DataLoader[Any], *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """Trainer's, with the objective's metrics added; one of `compute_metrics` of the same name stands."""
        when = f"evaluation after step {self.state.global_step}"
        with locate_errors(dataloader.dataset, when, self.processing_class):
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = flush(self._sums["eval"], self.accelerator)
        added = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        for name in sorted(added.keys() & output.metrics.keys()):
            del added[name]
            _LOG.warning("%s is what compute_metrics gives, in place of the objective's metric of that name", name)
        output.metrics.update(added)
        self.note_figures(metric_key_prefix, output.metrics)
        cache = self.accelerator.unwrap_model(self.model).cache
        if cache is not None:  # a data set that `precompute_reference` has not seen may have added to it
            cache.store.flush()
        return output
