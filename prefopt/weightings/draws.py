"""Random numbers that belong to a response: the same in every batch, on every device and in every run."""

from __future__ import annotations

import torch
from torch import Tensor

from prefopt.tokens import TokenBatch

_BITS = 0xFFFFFFFF


def uniform_draws(tokens: TokenBatch, seed: int) -> Tensor:
    """[N, T] multiples of 2^-24 in [0, 1): hashed from the seed, the response's token ids and the position.

    A generator would give a response other numbers in another batch, and could not go on where a run was cut.
    """
    ids = torch.where(tokens.mask, tokens.token_ids, 0)
    steps = torch.arange(ids.shape[1], device=ids.device)
    placed = _mixed(ids + _mixed(steps + _mixed(ids.new_tensor(seed))))
    response = torch.where(tokens.mask, placed, 0).sum(-1, keepdim=True)
    return (_mixed(_mixed(response) + steps) >> 8).to(tokens.logps.dtype) / 2**24


def _mixed(values: Tensor) -> Tensor:
    """values int64 -> int64 of 32 bits, scattered by shifts and products with an odd number of 27 bits, so that none
    leaves 63.
    """
    values = values & _BITS
    for _ in range(3):
        values = ((values ^ (values >> 16)) * 0x45D9F3B) & _BITS
    return values ^ (values >> 16)
