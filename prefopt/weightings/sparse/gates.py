"""Gates: from the score of a token to its weight, >= 0."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class Gate(nn.Module, ABC):
    """(scores [n], mask [N, T]) -> [n]: a weight for each of the n response tokens, row by row, that the mask keeps.

    start      the score at which the gate stands at one, or near it where it has no gradient at one
    rectified  whether the score of each layer passes a relu before they are mixed. Published for the relu gate; the
               others close at negative scores, which a sum of what relu leaves would not reach
    """

    start: ClassVar[float]
    rectified: ClassVar[bool] = False

    @abstractmethod
    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """scores [n], mask [N, T] -> [n]."""

    def openness(self, scores: Tensor) -> Tensor | None:
        """scores [n] -> [n], how likely each weight is not to be zero, with a gradient; None where the gate has no such
        number.
        """
        return None


@final
class ReluGate(Gate):
    """w = max(s, 0): unbounded, zero for good where no other token pulls the score up again."""

    start = 1.0
    rectified = True

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """scores [n], mask [N, T] -> [n]."""
        return torch.relu(scores)


@final
class SoftplusGate(Gate):
    """w = log(1 + exp(s)): unbounded, never zero."""

    start = math.log(math.e - 1)

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """scores [n], mask [N, T] -> [n]."""
        return softplus(scores)


@final
class SigmoidGate(Gate):
    """w = 1 / (1 + exp(-s)): below one, never zero."""

    start = 2.0

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """scores [n], mask [N, T] -> [n]."""
        return torch.sigmoid(scores)


@final
class HardConcreteGate(Gate):
    """w = min(1, max(0, 1.2 sigmoid(s) - 0.1)); in training the sigmoid is of (logit(u) + s) / (2 / 3), u uniform.

    Zero and one are reached exactly, and the noise keeps a gradient at tokens that stand there. A weight is not zero
    with probability sigmoid(s - (2 / 3) log(0.1 / 1.1)). Source: arXiv 1712.01312, its hard concrete gates: stretched
    to (-0.1, 1.1) at temperature 2 / 3, without the temperature in evaluation.
    """

    start = 2.0

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """scores [n], mask [N, T] -> [n]."""
        if self.training:
            scores = (torch.logit(torch.rand_like(scores), eps=1e-6) + scores) / _TEMPERATURE
        return (torch.sigmoid(scores) * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def openness(self, scores: Tensor) -> Tensor:
        """scores [n] -> [n]."""
        return torch.sigmoid(scores - _TEMPERATURE * math.log(-_LOW / _HIGH))


_TEMPERATURE, _LOW, _HIGH = 2 / 3, -0.1, 1.1


@final
class BinaryGate(Gate):
    """w = 1 where s > 0, else 0; backward takes it for sigmoid(s), so that closed tokens can open again."""

    start = 1.0

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """scores [n], mask [N, T] -> [n]."""
        return _straight_through(scores > 0, torch.sigmoid(scores))

    def openness(self, scores: Tensor) -> Tensor:
        """scores [n] -> [n]: 0 or 1, with the sigmoid's gradient."""
        return _straight_through(scores > 0, torch.sigmoid(scores))


@final
class TopKGate(Gate):
    """w = 1 on the k = ceil(share T) highest scores of a response, else 0; of equal ones the earlier token's is higher.

    Backward takes it for sigmoid(s - the k-th score), so that the gradient is largest at the tokens that are nearly in
    or nearly out.
    """

    start = 1.0

    def __init__(self, share: float) -> None:
        super().__init__()
        # As whole numbers: 0.07 * 100 is more than 7 in floating point, and its ceiling 8.
        self.part, self.whole = Fraction(share).limit_denominator(10**6).as_integer_ratio()

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        """scores [n], mask [N, T] -> [n]."""
        rows = scores.detach().new_full(mask.shape, -torch.inf).masked_scatter(mask, scores.detach())
        ordered, order = rows.sort(dim=-1, descending=True, stable=True)
        counts = ((mask.sum(-1, keepdim=True) * self.part + self.whole - 1) // self.whole).clamp(min=1)
        chosen = order.argsort(dim=-1) < counts
        last = ordered.gather(-1, counts - 1).expand_as(mask)
        return _straight_through(chosen[mask], torch.sigmoid(scores - last[mask]))


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of the one, exactly, with the gradient of the other."""
    return hard.to(soft.dtype) + (soft - soft.detach())


GATES: Mapping[str, Callable[[float], Gate]] = MappingProxyType(
    {
        "relu": lambda share: ReluGate(),
        "softplus": lambda share: SoftplusGate(),
        "sigmoid": lambda share: SigmoidGate(),
        "hard_concrete": lambda share: HardConcreteGate(),
        "binary": lambda share: BinaryGate(),
        "top_k": TopKGate,
    }
)
"""From the share of tokens to keep, which one of them reads, to the gate of that name."""
