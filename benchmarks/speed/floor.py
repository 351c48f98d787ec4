"""The least that any exact token-level objective must do: not an objective, only its matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.speed.contender import Contender, named
from benchmarks.speed.setting import Setting, batches, models

__all__ = ["floor"]

_CHUNK = 256
"""Tokens of a chunk of logits on a CPU. This and the orientation of the logits, [V, C], are the fastest of those
tried."""

_ACCELERATOR_CHUNK = 4096
"""The same on an accelerator, where none was tried."""


def floor(setting: Setting) -> Contender:
    """Each distinct token once through both backbones, as one plain row [prompt | chosen | rejected] a pair; the
    response tokens through both heads; the policy's logits, as if they were their own gradient, back through its
    head; and back through its backbone."""
    policy, reference = models(setting)
    size = _CHUNK if setting.device == "cpu" else _ACCELERATOR_CHUNK
    chosen = torch.arange(setting.prompt - 1, setting.prompt + setting.response - 1, device=setting.device)
    query_positions = torch.cat([chosen, chosen + setting.response])
    query_positions[setting.response] = setting.prompt - 1
    given = [torch.cat([batch.prompt_ids, batch.chosen_ids, batch.rejected_ids], 1) for batch in batches(setting)]
    weight, ref_weight = policy.lm_head.weight, reference.lm_head.weight
    logits = weight.new_empty(setting.vocabulary * size)
    ref_logits = torch.empty_like(logits)

    @torch.no_grad()
    def through_head(hidden: Tensor, ref_hidden: Tensor) -> tuple[Tensor, Tensor]:
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), size):
            part, ref_part = hidden[start : start + size], ref_hidden[start : start + size]
            product, ref_product = (
                buffer[: setting.vocabulary * len(part)].view(-1, len(part)) for buffer in (logits, ref_logits)
            )
            torch.mm(weight, part.T, out=product)
            torch.mm(ref_weight, ref_part.T, out=ref_product)
            torch.mm(product.T, weight, out=d_hidden[start : start + size])
            d_weight.addmm_(product, part)
        return d_hidden, d_weight

    def step(number: int) -> float:
        input_ids = given[number]
        hidden = policy.model(input_ids, use_cache=False).last_hidden_state[:, query_positions].flatten(0, 1)
        with torch.no_grad():
            ref_states = reference.model(input_ids, use_cache=False).last_hidden_state
        d_hidden, d_weight = through_head(hidden.detach(), ref_states[:, query_positions].flatten(0, 1))
        torch.autograd.backward([hidden, weight], [d_hidden, d_weight])
        return 0.0

    return Contender(step, named(policy))
