"""A reference that follows the policy."""

from __future__ import annotations

from typing import Any, final

import torch
from transformers import TrainerCallback

from prefopt.scoring import PreferenceModel

__all__ = ["ReferenceUpdate"]


@final
class ReferenceUpdate(TrainerCallback):
    """Every `every` steps: reference <- mixup * policy + (1 - mixup) * reference, weight by weight.

    mixup 1 replaces the reference (the hard update), less than 1 interpolates (the soft one). The reference needs
    weights of its own, so it cannot be an adapter's base. Source: TR-DPO (arXiv 2404.09656) eq. 4-5.
    """

    def __init__(self, model: PreferenceModel, *, mixup: float, every: int) -> None:
        if model.reference is None:
            raise ValueError(
                "sync_ref_model needs a reference with weights of its own; here it is the policy without its adapter, "
                "or the objective has none"
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
