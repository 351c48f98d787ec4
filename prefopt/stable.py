"""Elementary functions that stay finite, in value and gradient, where the plain ones overflow."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["capped_exp", "capped_expm1", "log1mexp"]


def capped_exp(x: Tensor, cap: float) -> Tensor:
    """exp(x) up to x = cap, and its tangent from there on: growing, but neither it nor its gradient overflows."""
    return torch.where(x > cap, (1 + x - cap) * torch.exp(x.new_tensor(cap)), torch.exp(x.clamp(max=cap)))


def capped_expm1(x: Tensor, cap: float) -> Tensor:
    """exp(x) - 1, accurate near 0, up to x = cap, and its tangent from there on."""
    capped = x.clamp(max=cap)
    return torch.where(x > cap, capped_exp(x, cap) - 1, torch.expm1(capped))


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, accurate near 0 and far from it; x is taken as at most the dtype's -tiny."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    near = x > -0.6931471805599453
    # Each branch sees only what is its own: the gradient of one that is not taken is 0 times its slope, nan at a pole.
    close = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, close, far)
