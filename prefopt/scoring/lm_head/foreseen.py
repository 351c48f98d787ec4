"""Backward through the head while a chunk's logits are there, for gradients that are known up to one factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.head import HeadGradient

_ROUNDING = 64
"""Units of rounding by which gradients that are one factor apart may differ."""


@final
@dataclass(frozen=True, eq=False)
class Foreseen:
    """dL/dlogps and dL/ddivergence [M] of a pass over the vocabulary, up to a factor."""

    d_logps: Tensor
    d_divergence: Tensor

    def factor(self, d_logps: Tensor, d_divergence: Tensor) -> Tensor | None:
        """f with d_logps = f self.d_logps and d_divergence = f self.d_divergence, up to rounding; None where there is
        none. It is read on the host, once a pass."""
        foreseen, actual = torch.cat([self.d_logps, self.d_divergence]), torch.cat([d_logps, d_divergence])
        tiny = torch.finfo(actual.dtype).tiny  # where all are zero, as under a mask of zeros
        largest = foreseen.abs().max().clamp(min=tiny)
        direction = foreseen / largest
        length = (actual * direction).sum() / direction.square().sum().clamp(min=tiny)
        rounding = _ROUNDING * torch.finfo(actual.dtype).eps * actual.abs().max()
        return length / largest if bool((actual - length * direction).abs().max() <= rounding) else None


@final
@dataclass(frozen=True, eq=False)
class Ahead:
    """What backward through the head gives for the foreseen gradients: of hidden states [M, H] and of the head."""

    foreseen: Foreseen
    d_hidden: Tensor
    gradient: HeadGradient

    @classmethod
    def begin(cls, foreseen: Foreseen, hidden: Tensor, total: HeadGradient) -> Ahead:
        """Before the first chunk; the head's gradient as in `total`."""
        return cls(foreseen, torch.empty_like(hidden), total.blank_copy())

    def taken(self, d_logps: Tensor, d_divergence: Tensor, total: HeadGradient) -> Tensor | None:
        """dL/dhidden [M, H], the head's gradient added to `total`; None where these gradients are not the foreseen."""
        factor = self.foreseen.factor(d_logps, d_divergence)
        if factor is None:
            return None
        total.add_scaled(self.gradient, factor)
        return (self.d_hidden * factor).to(self.d_hidden.dtype)
