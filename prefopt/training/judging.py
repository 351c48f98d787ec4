"""What of a Trainer counts and judges: a batch's pairs and tokens, the pairs of a step, its numbers, the mean loss, the
best metric, the end of a run."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import TrainerState
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler
from transformers.trainer_utils import TrainOutput

from prefopt.metrics import MetricSums
from prefopt.training.finished import logged_mean_loss
from prefopt.training.metrics import token_count
from prefopt.training.pair_order import LengthGroups, set_epoch
from prefopt.training.publishing import PublishingTrainer
from prefopt.training.step_guard import StepGuard
from prefopt.training.streaming import report_stream

_LOG = logging.getLogger(__name__)


class JudgingTrainer(PublishingTrainer):
    """A PublishingTrainer that counts pairs, and takes no step whose numbers are not finite. `compute_loss` adds each
    batch to `_guard`."""

    _guard: StepGuard

    def guard_steps(self, metrics: MetricSums) -> None:
        """Judge the steps to come, whose metrics are added to these sums."""
        self._guard = StepGuard(self, metrics)
        self.add_callback(self._guard)

    def take_over(self, folder: str, state: TrainerState) -> TrainOutput:
        """Load the policy of a run that has no step left, from its last checkpoint or its best. Its log ends with
        `train_loss`, as it does where nothing was resumed."""
        self.state = state
        if (loss := logged_mean_loss(state)) is not None:
            state.log_history.append({"train_loss": loss, "epoch": state.epoch, "step": state.global_step})
        best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self._load_from_checkpoint(best or folder)
        steps = f"step {state.global_step} of {state.max_steps}"
        _LOG.warning("%s is of %s: no step is left, and nothing is trained.", folder, steps)
        return TrainOutput(state.global_step, math.nan, {})

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        """Trainer's, which is what stands before the optimizer's step; None where that step is left out. Raises
        NonFiniteError and NonFiniteGradientError."""
        return self._guard.judge(super()._get_grad_norm(model, grad_norm))

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; the mean loss is that of the steps that were not left out, and a stream's report is known."""
        report_stream(self.train_dataset, self.data_reports)
        share = self._guard.counted_share()
        self._total_loss_scalar /= share
        self._tr_loss /= share
        return super()._finalize_training(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Trainer's; a metric that is not finite is never the best."""
        name = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        if not math.isfinite(metrics.get(name, 0.0)):
            step = self.state.global_step
            _LOG.warning("evaluation after step %d: %s is %s, and so not the best", step, name, metrics[name])
            return False
        return bool(super()._determine_best_metric(metrics, trial))

    def _track_num_input_tokens(self, inputs: dict[str, Tensor]) -> None:
        """Count positions of a batch of pairs, or those that are no padding."""
        if (counted := self.args.include_num_input_tokens_seen) != "no":
            count = torch.tensor(token_count(inputs, padding=counted != "non_padding"), device=self.args.device)
            self.state.num_input_tokens_seen += int(self.accelerator.gather(count).sum())

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        """Trainer's; pairs that are put together by length or cost come in an order of the data seed."""
        sampler, args = super()._get_train_sampler(train_dataset), self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        if isinstance(sampler, LengthGroupedSampler):
            pairs = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            return LengthGroups(sampler.lengths, pairs, seed)
        if isinstance(sampler, BatchRebalanceSampler):
            sampler.seed = seed
        return sampler

    def _run_epoch(self, *args: Any, epoch: int, train_dataloader: Any, **kwargs: Any) -> Any:
        """Trainer's, with the pairs in the order of that epoch, also where a run is resumed within it."""
        set_epoch(train_dataloader, epoch)
        return super()._run_epoch(*args, epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """The pairs of the whole step, over all processes."""
        pairs = torch.tensor([sum(len(batch["rows"]) for batch in batch_samples)], device=device)
        return self.accelerator.gather(pairs).sum()
