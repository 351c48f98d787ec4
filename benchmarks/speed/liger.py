"""Liger's chunked DPO: the head pair by pair, gradients taken in the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.speed.contender import Contender, UnavailableError, differentiated, named
from benchmarks.speed.setting import BETA, Setting, batches, models

__all__ = ["liger"]


def liger(setting: Setting) -> Contender:
    """Given the response positions only, which the exact lengths of this benchmark make possible. Not compiled, which
    would need a compiler."""
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss
    except ImportError as error:
        raise UnavailableError(f"{error.name} is not installed") from error
    policy, reference = models(setting)
    fused = LigerFusedLinearDPOLoss(beta=BETA, compiled=False, use_ref_model=True)
    given = batches(setting)

    def loss(number: int) -> Tensor:
        batch = given[number]
        labels = torch.cat([batch.chosen_ids, batch.rejected_ids])
        input_ids = torch.cat([batch.prompt_ids.repeat(2, 1), labels], 1)
        hidden = policy.model(input_ids, use_cache=False).last_hidden_state[:, setting.prompt - 1 : -1]
        with torch.no_grad():
            ref_hidden = reference.model(input_ids, use_cache=False).last_hidden_state[:, setting.prompt - 1 : -1]
        value: Tensor = fused(
            policy.lm_head.weight, hidden, labels, ref_input=ref_hidden, ref_weight=reference.lm_head.weight
        )[0]
        return value

    return Contender(differentiated(loss), named(policy))
