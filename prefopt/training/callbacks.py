"""Callbacks of the trainer: warnings of a margin that misleads and a warm-up that takes the run, and a reference that
follows the policy."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from transformers import TrainerCallback

from prefopt.objective import Objective
from prefopt.progress import Report, current_report
from prefopt.scoring import PreferenceModel
from prefopt.training.argument_conditions import CONDITIONS

_LOG = logging.getLogger(__name__)

_PATIENCE = 5
"""Logged steps in a row before a warning."""

_NEGLIGIBLE_SHARE = 0.1


def drift(objective: Objective, logs: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`weights/drift` and `divergence_weights/drift`: a learned mask's logged mean over its first logged mean."""
    ratios = {}
    for name in objective.learned_masks:
        mean = f"{name}/mean"
        if mean in logs:
            first = next((entry[mean] for entry in history if mean in entry), logs[mean])
            if first:
                ratios[f"{name}/drift"] = logs[mean] / first
    return ratios


@final
class WarmupWatch(TrainerCallback):
    """Warns of a warm-up that takes the whole run, whose learning rate is never that of the arguments."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compare its steps with the run's."""
        warmup = args.get_warmup_steps(state.max_steps)
        if warmup >= state.max_steps and CONDITIONS["warmup_steps"].holds(args):
            _LOG.warning(
                "warmup_steps: the warm-up takes %d steps, and the run has %d, so that the learning rate never gets to "
                "%g; make the warm-up shorter (below 1 it is a share of the run)",
                *(warmup, state.max_steps, args.learning_rate),
            )


@final
class MarginWatch(TrainerCallback):
    """Warns, once, of a margin that grows through the divergence alone for some logged steps."""

    def __init__(self) -> None:
        self._margins: deque[tuple[float, float]] = deque(maxlen=_PATIENCE)
        self._has_warned = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Read the logged metrics of a training step."""
        logs = logs or {}
        if self._has_warned or not state.is_world_process_zero or "rewards/margins_log_ratio" not in logs:
            return
        self._margins.append((logs["rewards/margins"], logs["rewards/margins_log_ratio"]))
        (first, _ratio), (last, log_ratio) = self._margins[0], self._margins[-1]
        divergence_alone = all(part < _NEGLIGIBLE_SHARE * margin for margin, part in self._margins)
        if len(self._margins) == _PATIENCE and divergence_alone and last > max(first, _NEGLIGIBLE_SHARE):
            self._has_warned = True
            _LOG.warning(
                "over %d logged steps the margin grew from %.3g to %.3g through the divergence, while the log-ratios' "
                "part of it is %.3g: the policy moves away from the reference on chosen responses and does not come to "
                "prefer them. Lower divergence.alpha, or set divergence.detach_chosen, as tdpo2 does; for a learned "
                "mask, see which tokens it weighs.",
                *(_PATIENCE, first, last, log_ratio),
            )


@final
class ReferenceUpdate(TrainerCallback):
    """Every `every` steps: reference <- mixup * policy + (1 - mixup) * reference, weight by weight.

    mixup 1 replaces the reference (the hard update), less than 1 interpolates (the soft one). The reference needs
    weights of its own, so it cannot be an adapter's base. Source: TR-DPO (arXiv 2404.09656) eq. 4-5.
    """

    def __init__(self, model: PreferenceModel, *, mixup: float, every: int) -> None:
        if model.reference is None:
            raise ValueError(
                "sync_ref_model needs a reference with weights of its own; here it is the policy with another adapter "
                "or none, or the objective has none"
            )
        policy = {name: parameter.shape for name, parameter in model.policy.named_parameters()}
        for name, parameter in model.reference.named_parameters():
            if policy.get(name) != parameter.shape:
                raise ValueError(
                    f"sync_ref_model needs a reference of the policy's shape, and {name} is {list(parameter.shape)} in "
                    f"the reference and {list(policy.get(name, []))} in the policy"
                )
        if not 0 < mixup <= 1 or every < 1:
            raise ValueError(
                f"ref_model_mixup_alpha must be in (0, 1] and ref_model_sync_steps at least 1; got {mixup}, {every}"
            )
        self.model = model
        self.mixup = mixup
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Update after the optimizer's step."""
        if state.global_step % self.every == 0:
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Interpolate the reference towards the policy, now."""
        assert self.model.reference is not None
        policy = dict(self.model.policy.named_parameters())
        for name, parameter in self.model.reference.named_parameters():
            parameter.lerp_(policy[name].to(parameter.dtype), self.mixup)


@final
class StepReport(TrainerCallback):
    """Reports the steps of training as progress (see `prefopt.progress`).

    what    it is, in a word or two
    report  where to; None: where progress is reported then
    """

    def __init__(self, what: str = "training", report: Report | None = None) -> None:
        self._what, self._report = what, report

    def on_train_begin(self, args: object, state: Any, control: object, **kwargs: object) -> None:
        """Report the number of steps."""
        self._say(state)

    def on_step_end(self, args: object, state: Any, control: object, **kwargs: object) -> None:
        """Report the step."""
        self._say(state)

    def _say(self, state: Any) -> None:
        (self._report or current_report())(self._what, state.global_step, state.max_steps)
