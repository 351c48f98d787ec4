"""The tokens of a chunk that backward through the head has to take."""

from __future__ import annotations

from typing import final, overload

from torch import Tensor

_MOST = 7 / 8
"""The largest share of the tokens for which it is worth while to leave out the others: selecting takes a pass."""


@final
class TokensWithGradient:
    """The tokens of a chunk at which the loss has a gradient: those that a mask leaves out (a weight of zero) and pairs
    with a margin that is wide enough (a hinge) have none, and no products are taken for them.

    indices [C'], or None where all C are taken
    """

    def __init__(self, g_logps: Tensor, g_divergence: Tensor) -> None:
        nonzero = (g_logps != 0) | (g_divergence != 0)
        indices = nonzero.nonzero()[:, 0]
        self.indices = indices if len(indices) <= _MOST * len(nonzero) else None
        self._count = len(nonzero)

    @overload
    def select(self, values: Tensor, dim: int = -1) -> Tensor: ...
    @overload
    def select(self, values: None) -> None: ...
    def select(self, values: Tensor | None, dim: int = -1) -> Tensor | None:
        """[..., C] -> [..., C'], or the same in another dimension."""
        return values if values is None or self.indices is None else values.index_select(dim, self.indices)

    def spread(self, values: Tensor) -> Tensor:
        """[C', H] -> [C, H], zero at the other tokens."""
        if self.indices is None:
            return values
        return values.new_zeros(self._count, values.shape[-1]).index_copy_(0, self.indices, values)
