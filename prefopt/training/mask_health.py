"""How a mask fares as it trains: the drift of its scale, and warnings where it teaches nothing or the wrong thing."""

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
_MANY = 0.5
_LITTLE = 0.1


def drift(objective: Objective, logs: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`weights/drift` and `divergence_weights/drift`: the logged mean over the first one logged, of what learns."""
    masks = {"weights": objective.weighting, "divergence_weights": objective.divergence_weighting}
    found = {}
    for name, mask in masks.items():
        mean = f"{name}/mean"
        if isinstance(mask, nn.Module) and next(mask.parameters(), None) is not None and mean in logs:
            start = next((entry[mean] for entry in history if mean in entry), logs[mean])
            if start:
                found[f"{name}/drift"] = logs[mean] / start
    return found


@final
class MaskWatch(TrainerCallback):
    """Warns, once of each, where for some logged steps in a row most responses weigh nothing, or the margin is the
    divergence's alone and grows.
    """

    def __init__(self) -> None:
        self._dead: deque[float] = deque(maxlen=_PATIENCE)
        self._margins: deque[tuple[float, float]] = deque(maxlen=_PATIENCE)
        self._said: set[str] = set()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Look at what is logged of training."""
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        if "weights/all_zero" in logs:
            self._dead.append(logs["weights/all_zero"])
            if len(self._dead) == _PATIENCE and min(self._dead) > _MANY:
                self._warn(
                    "dead",
                    f"for {_PATIENCE} logged steps, all weights of {min(self._dead):.0%} of the responses or more were "
                    "zero, and such responses teach the policy nothing. A learned mask starts alive with init "
                    "near_one and keeps its scale with scale mean_one; lower its L1 or l0, or mask_learning_rate",
                )
        if "rewards/margins_log_ratio" in logs:
            self._margins.append((logs["rewards/margins"], logs["rewards/margins_log_ratio"]))
            (first, _own), (last, own) = self._margins[0], self._margins[-1]
            alone = all(ours < _LITTLE * margin for margin, ours in self._margins)
            if len(self._margins) == _PATIENCE and alone and last > max(first, _LITTLE):
                self._warn(
                    "divergence",
                    f"over {_PATIENCE} logged steps the margin grew from {first:.3g} to {last:.3g} through the "
                    f"divergence, while the log-ratios' part of it is {own:.3g}: the policy moves away from the "
                    "reference on chosen responses and does not come to prefer them. Lower divergence.alpha, or set "
                    "divergence.detach_chosen, as tdpo2 does; of a learned mask, see which tokens it weighs",
                )

    def _warn(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _LOG.warning("%s.", text)
