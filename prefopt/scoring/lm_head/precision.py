"""The precision in which a device computes: of statistics, of the softmax's normalisers, and of the head's products."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Self, final

import torch
from torch import Tensor

_FULL_FLOAT64 = {"cuda": {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}, "hip": {(9, 0), (9, 4), (9, 5)}}
"""Compute capabilities of the cards that take float64 at half the rate of float32 or more: P100, V100, A100, H100 and
B200; MI200, MI300 and MI350. Others take it at a 32nd or less, or not at all."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of statistics over the vocabulary: float32, or the dtype itself where it is wider."""
    return torch.promote_types(dtype, torch.float32)


def normaliser_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """float64 on a CPU and on cards that are made for it, otherwise the dtype of the statistics."""
    if device.type == "cpu":
        return torch.float64
    if device.type != "cuda":
        return dtype
    cards = _FULL_FLOAT64["hip" if torch.version.hip else "cuda"]
    return torch.float64 if torch.cuda.get_device_capability(device) in cards else dtype


@final
@dataclass(frozen=True, eq=False)
class LogNormaliser:
    """log Z = maximum + log(total), with maximum and total [C], or [models, C].

    The sum of the two is never taken: of log Z only differences are read, in which the maxima cancel. Taken by their
    parts, these are as exact in float32 as sums of float32 exponentials are; in float64 they are so either way.
    """

    maximum: Tensor
    total: Tensor

    @classmethod
    def from_blocks(cls, block_max: Tensor, block_sum: Tensor) -> Self:
        """From maxima a and sums of exp(z - a), [blocks, C] or [blocks, models, C] each."""
        dtype = normaliser_dtype(block_max.device, block_max.dtype)
        block_max = block_max.to(dtype)
        maximum = block_max.amax(0)
        return cls(maximum, (block_sum.to(dtype) * (block_max - maximum).exp()).sum(0))

    def unbind(self) -> list[Self]:
        """log Z [C] of every model."""
        return [replace(self, maximum=one, total=total) for one, total in zip(self.maximum, self.total, strict=True)]

    def subtracted_from(self, values: Tensor) -> Tensor:
        """values - log Z, [..., C]."""
        return (values - self.maximum) - self.total.log()

    def ratio(self, other: Self) -> Tensor:
        """log Z - log Z', [C]."""
        return (self.maximum - other.maximum) + (self.total / other.total).log()


@cache
def multiplies_into_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch keeps products of this dtype in float32 on this device, which a product of ones shows: no version
    of torch says so, and on a CPU none does."""
    if wide(dtype) == dtype:
        return False
    ones, total = torch.ones(16, 16, dtype=dtype, device=device), torch.ones(16, 16, device=device)
    try:
        torch.mm(ones, ones.T, out_dtype=torch.float32, out=total.T)
        torch.addmm(total, ones.T, ones, out_dtype=torch.float32, out=total)
        return bool((total == 32).all())
    except (NotImplementedError, RuntimeError, TypeError):  # no such kernel, other dtypes, no such argument
        return False


def multiply(out: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """one @ two [A, B], written to `out` in its dtype; rounded to that of the factors only where the device has no
    wider product."""
    if out.dtype == one.dtype:
        return torch.mm(one, two, out=out)
    if multiplies_into_float32(one.device, one.dtype) and out.dtype == torch.float32:
        return torch.mm(one, two, out_dtype=torch.float32, out=out)
    return out.copy_(one @ two)


def add_product(total: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """total + one @ two, in place and in the total's dtype, as `multiply`."""
    if total.dtype == one.dtype:
        return total.addmm_(one, two)
    if multiplies_into_float32(one.device, one.dtype) and total.dtype == torch.float32:
        return torch.addmm(total, one, two, out_dtype=torch.float32, out=total)
    return total.add_(one @ two)
