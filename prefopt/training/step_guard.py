"""Judges a training step's numbers before the optimizer's step: they are finite, or the step is left out or stops the
run."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, final

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from prefopt.metrics import MetricSums
from prefopt.objective import ObjectiveOutput
from prefopt.scoring import all_finite
from prefopt.tokens import PreferenceBatch
from prefopt.training.failed_step import keep_failed_step
from prefopt.training.finite_steps import NonFiniteGradientError, non_finite_error
from prefopt.training.random_states import RandomStates, drawing_from

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True, eq=False)
class _Start:
    """What a step that is left out puts back: the sums of loss and metrics, and what the objective keeps from step to
    step; with the random states that it began with."""

    loss: Tensor
    metrics: dict[str, Tensor]
    buffers: list[Tensor]
    random: RandomStates


@final
class StepGuard(TrainerCallback):
    """Keeps a step's batches and whether their numbers are finite, and reads one number, from the device, with the norm
    of the gradients: a step whose numbers are not finite is left out, at most `max_skipped_steps` in a row; then it
    stops the run.

    last_taken  the last step that changed the weights
    """

    def __init__(self, trainer: Trainer, metrics: MetricSums) -> None:
        self._trainer, self._metrics = trainer, metrics
        self._batches: list[PreferenceBatch] = []
        self._finite: Tensor | None = None
        self._start: _Start | None = None
        self.last_taken = self._in_a_row = 0
        # Since the last log: steps, those left out here, and with those that float16's scaler leaves out.
        self._judged = self._left_out = self._skipped = 0
        self._all_judged = self._all_left_out = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin at the step of the checkpoint, if any."""
        self.last_taken = state.global_step
        self._in_a_row = self._judged = self._left_out = self._skipped = self._all_judged = self._all_left_out = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what the step may have to put back."""
        trainer = self._trainer
        self._batches, self._finite = [], None
        objective = trainer.accelerator.unwrap_model(trainer.model).objective
        self._start = _Start(
            loss=trainer._tr_loss.clone(),
            metrics=self._metrics.sums.copy(),
            buffers=[buffer.clone() for buffer in objective.buffers()],
            random=RandomStates.now(),
        )
        self._mark_skipped(False)

    def add(self, batch: PreferenceBatch, output: ObjectiveOutput) -> None:
        """Keep a batch of the step, and whether all are finite so far."""
        self._batches.append(batch)
        finite = all_finite(output)
        self._finite = finite if self._finite is None else self._finite & finite

    def judge(self, norm: Tensor | float | None) -> Tensor | float | None:
        """The norm of the step's gradients over all processes, where the step can be taken; None where it is left out,
        and its gradients are dropped. Raises NonFiniteError or NonFiniteGradientError where it stops the run.

        float16's loss scaler leaves out a step whose gradients alone are not finite, and lowers its scale; it is an
        error once the scale is below 1. None, where DeepSpeed has no norm, is finite. All processes come to the same
        verdict, in one all-reduce of one number.
        """
        value, is_finite = self._read(norm)
        self._judged += 1
        self._all_judged += 1
        scaler = self._trainer.accelerator.scaler
        if is_finite and math.isfinite(value):
            self.last_taken = self._trainer.state.global_step + 1
            self._in_a_row = 0
            return None if norm is None else value
        if is_finite and scaler is not None and scaler.is_enabled() and scaler.get_scale() >= 1:
            self._skipped += 1
            return value
        error = self._error(value)
        self._put_back()
        limit = self._trainer.args.max_skipped_steps
        if self._in_a_row >= limit:
            assert self._start is not None
            kept = keep_failed_step(self._trainer, self._batches, self._start.random, error, self.last_taken)
            before = f"; {limit} steps in a row were left out before it (max_skipped_steps)" if limit else ""
            error.args = (f"{str(error).rstrip('.')}{before}; {kept}",)
            raise error
        self._in_a_row += 1
        self._skipped += 1
        self._left_out += 1
        self._all_left_out += 1
        self._mark_skipped(True)
        _LOG.warning(
            "%s; the step is left out, %d of at most %d in a row", str(error).rstrip("."), self._in_a_row, limit
        )
        return None

    def correct(self, logs: dict[str, float]) -> None:
        """Make the loss of a log the mean over the steps since the last one that were not left out, which have added
        nothing to it, and add `skipped_steps`, where any may be. Without such a step there is no loss."""
        if self._trainer.args.max_skipped_steps or self._trainer.accelerator.scaler is not None:
            logs["skipped_steps"] = self._skipped
        if self._left_out and self._left_out == self._judged:
            del logs["loss"]
        elif self._left_out:
            logs["loss"] *= self._judged / (self._judged - self._left_out)
        self._judged = self._left_out = self._skipped = 0

    def counted_share(self) -> float:
        """The share of this training's steps that were not left out. Raises FloatingPointError where all were."""
        if self._all_left_out and self._all_left_out == self._all_judged:
            raise FloatingPointError(
                f"none of {self._all_judged} steps was taken: the numbers of all were not finite (see the log), and "
                "the weights are as they were; max_skipped_steps: 0 stops at the first"
            )
        return 1 - self._all_left_out / max(self._all_judged, 1)

    def _read(self, norm: Tensor | float | None) -> tuple[float, bool]:
        """The norm, and whether losses, rewards and weights are finite on all processes: one read from the device."""
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        assert self._finite is not None
        accelerator = self._trainer.accelerator
        broken = (~self._finite).float()
        if accelerator.num_processes > 1:
            broken = accelerator.reduce(broken, reduction="sum")
        if isinstance(norm, Tensor):
            value, count = torch.stack([norm, broken.to(norm)]).tolist()
        else:
            value, count = 0.0 if norm is None else float(norm), float(broken)
        return value, count == 0

    def _error(self, norm: float) -> FloatingPointError:
        """The first process's error that names a pair, or the first one's."""
        assert self._start is not None
        trainer = self._trainer
        self._put_back()
        with drawing_from(self._start.random):
            error: FloatingPointError = non_finite_error(trainer, self._batches, norm, self.last_taken)
        self._put_back()
        if trainer.accelerator.num_processes > 1:
            errors = gather_object([error])
            error = min(errors, key=lambda other: (isinstance(other, NonFiniteGradientError), other.row is None))
        return error

    def _put_back(self) -> None:
        """Undo what the step has changed, and drop its gradients."""
        assert self._start is not None
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.zero_grad()
        trainer._tr_loss.copy_(self._start.loss)
        self._metrics.sums = self._start.metrics.copy()
        with torch.no_grad():
            for buffer, before in zip(model.objective.buffers(), self._start.buffers, strict=True):
                buffer.copy_(before)

    def _mark_skipped(self, skipped: bool) -> None:
        """Say of the optimizer that its step was skipped, as accelerate does under float16's scaler: the schedule then
        waits. Without gradients its step changes nothing."""
        optimizer = self._trainer.optimizer
        if self._trainer.accelerator.scaler is None and hasattr(optimizer, "_is_overflow"):
            optimizer._is_overflow = skipped
