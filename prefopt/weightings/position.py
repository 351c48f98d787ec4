"""Weights by relative position in the response."""

from __future__ import annotations

from typing import Annotated, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prefopt.component import TokenWeighting, WeightFunction
from prefopt.tokens import TokenBatch


@final
class PositionWeighting(TokenWeighting):
    """w_t = f((t - 1) / (T - 1)), f piecewise linear through `values` at equally spaced knots in [0, 1].

    A response of one token has the first value. `learned` makes the values parameters, softplus of free numbers, that
    start at `values`: what a mask can gain by position alone.
    Source: this package, as the control for masks that are meant to select the tokens that matter.

    >>> PositionWeighting(values=(2.0, 0.0), learned=False).values
    (2.0, 0.0)
    """

    name: Literal["position"] = "position"
    values: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(1.0, 1.0, 1.0, 1.0, 1.0), min_length=1)
    learned: bool = True

    def build(self, *, num_layers: int, hidden_size: int) -> WeightFunction:
        """A PositionCurve where the values are learned, else this component itself."""
        return PositionCurve(self.values) if self.learned else self

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return _interpolated(tokens.logps.new_tensor(self.values), tokens.mask)

    @model_validator(mode="after")
    def _can_be_learned(self) -> Self:
        if self.learned and min(self.values) == 0:
            raise ValueError("values: a learned value starts above 0, where softplus can reach it; got 0")
        return self


@final
class PositionCurve(nn.Module):
    """(TokenBatch) -> [N, T]: weights interpolated between the knots softplus(free_k)."""

    def __init__(self, values: tuple[float, ...]) -> None:
        super().__init__()
        start = torch.tensor(values, dtype=torch.float64)
        self.free = nn.Parameter((start + torch.log(-torch.expm1(-start))).float())  # softplus of this is the start

    def forward(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return _interpolated(nn.functional.softplus(self.free), tokens.mask)


def _interpolated(values: Tensor, mask: Tensor) -> Tensor:
    """values [K], mask [N, T] -> [N, T]: interpolated between K knots over each row's response; 0 off it."""
    last = len(values) - 1
    steps = torch.arange(mask.shape[1], device=mask.device, dtype=values.dtype)
    positions = steps * last / (mask.sum(-1, keepdim=True) - 1).clamp(min=1)
    knots = torch.arange(last + 1, device=mask.device, dtype=values.dtype)
    hat_functions = torch.relu(1 - (positions[..., None] - knots).abs())
    return torch.where(mask, hat_functions @ values, 0)
