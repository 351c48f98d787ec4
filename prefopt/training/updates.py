"""Whether training changes the policy: what trains at all, and what its first step has changed."""

from __future__ import annotations

from typing import Any, final

import torch
from accelerate.utils import gather
from torch import Tensor, nn
from transformers import TrainerCallback

from prefopt.scoring import PreferenceModel

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensor: Tensor) -> int:
    """A sum over the bits of this process's part of a tensor, which a change of any element changes; 0 of another
    library's type, such as a quantised weight, which does not train."""
    local = tensor.detach()
    local = local.to_local() if hasattr(local, "to_local") else local
    local = torch.view_as_real(local) if local.is_complex() else local
    if type(local) is not Tensor:
        return 0
    return int(local.view(_INTEGERS[local.element_size()]).sum())


def reject_untrainable(policy: nn.Module) -> None:
    """Raise ValueError where no parameter of the policy trains."""
    if any(parameter.requires_grad for parameter in policy.parameters()):
        return
    remedy = "set requires_grad on what is to train"
    if hasattr(policy, "peft_config"):
        remedy = "load its adapter with is_trainable=True, or give the base model and peft_config"
    raise ValueError(f"the policy has no parameter that trains, so that training would change nothing; {remedy}")


@final
class UpdateWatch(TrainerCallback):
    """Raises RuntimeError where the first step whose learning rate is not zero leaves every parameter of the policy as
    it was."""

    def __init__(self, model: PreferenceModel) -> None:
        self.policy = model.policy
        self._before: dict[str, int] | None = None
        self._is_done = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read the parameters before the step; DeepSpeed and some optimizers change them in backward."""
        if not self._is_done:
            self._before = self._checksums()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Compare them after it, and before the gradients are dropped."""
        before, self._before = self._before, None
        rates = [group["lr"] for group in optimizer.param_groups]
        if before is None or not any(rates) or getattr(optimizer, "step_was_skipped", False):
            return  # warm-up begins at zero, and a step whose float16 gradients overflow is left out
        self._is_done = True
        gradients = [p.grad for p in self.policy.parameters() if p.requires_grad and p.grad is not None]
        device = next(self.policy.parameters()).device
        flags = [before != self._checksums(), any(bool((gradient != 0).any()) for gradient in gradients), not before]
        changed, pulled, absent = gather(torch.tensor([flags], device=device)).view(-1, len(flags)).any(0).tolist()
        if changed or absent:
            return
        cause = (
            "no gradient reaches it: its adapter is off or not the active one, never acts on these rows, all tokens "
            "weigh nothing (a learned mask starts alive with init near_one), or the loss is flat"
        )
        if pulled:
            cause = "its updates round to nothing: raise learning_rate, or train in float32 (bf16 or fp16: true)"
        raise RuntimeError(f"the first step changed no parameter of the policy; {cause}")

    def _checksums(self) -> dict[str, int]:
        """Of what trains and is here: DeepSpeed keeps its partitions elsewhere."""
        return {n: checksum(p) for n, p in self.policy.named_parameters() if p.requires_grad and p.numel()}
