"""The health of a learned mask: the drift of its scale, and warnings where it is dead or trains the wrong margin."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import nn
from transformers import TrainerCallback

from prefopt.objective import Objective

__all__ = ["MaskWatch", "drift"]

_LOG = logging.getLogger(__name__)

_PATIENCE = 5
"""Logged steps in a row before a warning."""

_DEAD_SHARE = 0.5
_NEGLIGIBLE_SHARE = 0.1


def drift(objective: Objective, logs: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`weights/drift` and `divergence_weights/drift`: a learned mask's logged mean over its first logged mean."""
    masks = {"weights": objective.weighting, "divergence_weights": objective.divergence_weighting}
    ratios = {}
    for name, mask in masks.items():
        mean = f"{name}/mean"
        if isinstance(mask, nn.Module) and next(mask.parameters(), None) is not None and mean in logs:
            first = next((entry[mean] for entry in history if mean in entry), logs[mean])
            if first:
                ratios[f"{name}/drift"] = logs[mean] / first
    return ratios


@final
class MaskWatch(TrainerCallback):
    """Warns, once each, of a dead mask (most responses weigh nothing) and of a margin that grows through the divergence
    alone, where either lasts for some logged steps.
    """

    def __init__(self) -> None:
        self._all_zero: deque[float] = deque(maxlen=_PATIENCE)
        self._margins: deque[tuple[float, float]] = deque(maxlen=_PATIENCE)
        self._warnings: set[str] = set()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Read the logged metrics of a training step."""
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        if "weights/all_zero" in logs:
            self._all_zero.append(logs["weights/all_zero"])
            if len(self._all_zero) == _PATIENCE and min(self._all_zero) > _DEAD_SHARE:
                self._warn(
                    "dead",
                    f"for {_PATIENCE} logged steps, all weights of {min(self._all_zero):.0%} of the responses or more "
                    "were zero, and such responses teach the policy nothing. A learned mask starts alive with init "
                    "near_one and keeps its scale with scale mean_one; lower its L1 or l0, or mask_learning_rate",
                )
        if "rewards/margins_log_ratio" in logs:
            self._margins.append((logs["rewards/margins"], logs["rewards/margins_log_ratio"]))
            (first, _ratio), (last, log_ratio) = self._margins[0], self._margins[-1]
            divergence_alone = all(part < _NEGLIGIBLE_SHARE * margin for margin, part in self._margins)
            if len(self._margins) == _PATIENCE and divergence_alone and last > max(first, _NEGLIGIBLE_SHARE):
                self._warn(
                    "divergence",
                    f"over {_PATIENCE} logged steps the margin grew from {first:.3g} to {last:.3g} through the "
                    f"divergence, while the log-ratios' part of it is {log_ratio:.3g}: the policy moves away from the "
                    "reference on chosen responses and does not come to prefer them. Lower divergence.alpha, or set "
                    "divergence.detach_chosen, as tdpo2 does; for a learned mask, see which tokens it weighs",
                )

    def _warn(self, key: str, text: str) -> None:
        if key not in self._warnings:
            self._warnings.add(key)
            _LOG.warning("%s.", text)
