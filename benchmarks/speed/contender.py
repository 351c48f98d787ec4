"""What a contender is: something that takes a step and has parameters whose gradients can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, final

from torch import Tensor, nn

from benchmarks.speed.setting import Setting

__all__ = ["Contender", "Entry", "UnavailableError", "differentiated", "named"]


@final
class UnavailableError(Exception):
    """A contender that cannot run here, and why."""


@final
@dataclass(frozen=True, eq=False)
class Contender:
    """One way to do a step.

    step        batch number -> loss: forward of both models, objective, backward into the gradients, which are unset
                before it
    parameters  those that get gradients, by the policy's own names, and of the objective under "objective."
    """

    step: Callable[[int], float]
    parameters: Mapping[str, nn.Parameter]

    def clear(self) -> None:
        """Unset the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None


class _Build(Protocol):
    def __call__(self, setting: Setting, /) -> Contender: ...


@final
@dataclass(frozen=True)
class Entry:
    """A contender by its builder, and what it is in words.

    whole_logits  how many tensors of all tokens' logits it holds at once, to tell beforehand whether it fits in memory
    """

    build: _Build
    words: str
    whole_logits: float = 0


def differentiated(loss: Callable[[int], Tensor]) -> Callable[[int], float]:
    """The step of a contender whose loss is differentiated by autograd."""

    def step(batch: int) -> float:
        value = loss(batch)
        value.backward()
        return float(value.detach())

    return step


def named(policy: nn.Module, objective: nn.Module | None = None) -> dict[str, nn.Parameter]:
    """The parameters of a contender, as it names them."""
    learned = {} if objective is None else dict(objective.named_parameters(prefix="objective"))
    return {**dict(policy.named_parameters()), **learned}
