"""Random numbers of a response, the same in every batch, epoch and process."""

from __future__ import annotations

import torch
from torch import Tensor

from prefopt.tokens import TokenBatch

__all__ = ["uniform_draws"]

_BITS = 0xFFFFFFFF


def uniform_draws(tokens: TokenBatch, seed: int | Tensor) -> Tensor:
    """[N, T] multiples of 2^-24 in [0, 1): hashed from the seed, the response's token ids and the position.

    A stateful generator would give a response other numbers in another batch and after a resumed run.
    """
    ids = torch.where(tokens.mask, tokens.token_ids, 0)
    steps = torch.arange(ids.shape[1], device=ids.device)
    token_hashes = _hash(ids + _hash(steps + _hash(torch.as_tensor(seed, device=ids.device))))
    response = torch.where(tokens.mask, token_hashes, 0).sum(-1, keepdim=True)
    return (_hash(_hash(response) + steps) >> 8).to(tokens.logps.dtype) / 2**24


def _hash(values: Tensor) -> Tensor:
    """An integer hash, int64 -> int64 of 32 bits: xor-shifts, and products with an odd constant of 27 bits, which fit
    an int64.
    """
    values = values & _BITS
    for _ in range(3):
        values = ((values ^ (values >> 16)) * 0x45D9F3B) & _BITS
    return values ^ (values >> 16)
