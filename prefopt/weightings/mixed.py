"""Weights between another weighting's and one."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.tokens import TokenBatch
from prefopt.weightings.composed import ComposedWeighting


@final
class MixedWeighting(ComposedWeighting):
    """w_t = 1 - s + s w'_t, w' another weighting's weights and s the `share`.

    No token weighs less than 1 - s, so that none drifts unpenalised; where w' has mean one, so has w. Gradients through
    w' are s times as large, and its penalties are as they were.
    Source: this package.

    >>> from prefopt import TokenWeighting, resolve
    >>> resolve(TokenWeighting, {"name": "mixed", "weighting": "random"}).share
    0.5
    """

    name: Literal["mixed"] = "mixed"
    share: float = Field(default=0.5, gt=0, le=1)

    def change(self, weights: Tensor, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return torch.where(tokens.mask, 1 - self.share + self.share * weights, 0)
