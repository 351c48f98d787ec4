"""The same weight for every token."""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field
from torch import Tensor

from prefopt.component import TokenWeighting
from prefopt.tokens import TokenBatch


@final
class UniformWeighting(TokenWeighting):
    """w_t = value, on every response token.

    A value c scales the whole reward: an objective with weights c at beta is the unweighted one at beta c, which makes
    it the control for the scale of any mask. Source: DPO (arXiv 2305.18290) eq. 7, whose weights are all one.

    >>> UniformWeighting(value=0.25).value
    0.25
    """

    name: Literal["uniform"] = "uniform"
    value: float = Field(default=1.0, ge=0)

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return tokens.mask * tokens.logps.new_tensor(self.value)
