"""The kinds of component but for divergences, and what they build."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from prefopt.component.base import Component
from prefopt.tokens import TokenBatch

__all__ = [
    "LossFunction",
    "PreferenceLoss",
    "Regularizer",
    "RewardShaping",
    "TokenWeighting",
    "Units",
    "WeightFunction",
    "built",
    "weights_and_penalty",
]

WeightFunction = Callable[[TokenBatch], Tensor]
LossFunction = Callable[[Tensor, Tensor, TokenBatch], Tensor]


class TokenWeighting(Component):
    """How much each response token counts: (TokenBatch) -> [N, T], finite, >= 0, and 0 off the response.

    A weighting with learned parameters returns an `nn.Module` of the same signature from `build`, which must not pass
    gradient to the policy, and may have a penalty of its own (see the function `weights_and_penalty`).
    """

    kind: ClassVar[str] = "token weighting"
    hook: ClassVar[str] = "prefopt_token_weightings"

    def build(self, *, num_layers: int, hidden_size: int) -> WeightFunction:
        """The function that weighs tokens: this component itself, unless it has parameters to learn."""
        return self  # type: ignore[return-value]  # what is not callable, the objective refuses


def weights_and_penalty(function: WeightFunction, tokens: TokenBatch) -> tuple[Tensor, Tensor | None]:
    """The weights [N, T] of a function that a weighting built, and its penalty per token, [N, T] or None.

    A module with a penalty has a method `weights_and_penalty`, (TokenBatch) -> (weights, penalty), with the weights of
    its call. The objective adds the penalties of both responses; they have a gradient where weights are zero.
    """
    if isinstance(function, nn.Module) and hasattr(function, "weights_and_penalty"):
        weights, penalty = function.weights_and_penalty(tokens)  # type: ignore[operator]
        return weights, penalty
    return function(tokens), None


class RewardShaping(Component):
    """From token rewards to the response's reward: (rewards [N, T], mask [N, T], is_chosen [N]) -> [N]."""

    kind: ClassVar[str] = "reward shaping"
    hook: ClassVar[str] = "prefopt_reward_shapings"

    @abstractmethod
    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T] bool, is_chosen [N] bool -> [N]."""


class Units(Component):
    """The parts of two responses that are compared: (TokenBatch) -> [N, T] int64, the number of each token's unit,
    >= 0, or -1 where it is in none, as off the response.

    Units of a pair's responses with the same number are partners. The shaping gives each a reward, and the losses of
    partners are reduced to their pair's. One without a partner is left out, or compared with zero: `unpaired`.
    """

    kind: ClassVar[str] = "unit grouping"
    hook: ClassVar[str] = "prefopt_units"

    reduction: Literal["mean", "sum"] = "mean"
    unpaired: Literal["left_out", "zero"] = "left_out"

    @property
    def weight_columns(self) -> tuple[str, ...]:
        """The pair columns with the weight of unit 0, 1, ... in its pair's mean or sum; empty: all weigh one."""
        return ()

    @property
    def has_baseline(self) -> bool:
        """Whether, as configured, `build` gives a module with a `baseline`. It does not unless it says so."""
        return False

    def build(self, *, num_layers: int, hidden_size: int) -> Callable[[TokenBatch], Tensor]:
        """What numbers the units: this component itself, or a module that learns a `baseline` (see `UnitPairs`)."""
        return self

    @abstractmethod
    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""


class PreferenceLoss(Component):
    """The loss of a pair of response rewards: (chosen [B], rejected [B], TokenBatch) -> [B].

    The batch is there for what is not in the rewards: columns of the data, or what the models said. A loss that keeps
    something from step to step, such as a running mean, returns an `nn.Module` of the same signature from `build`, and
    keeps it in buffers, which are saved and resumed with the objective.
    """

    kind: ClassVar[str] = "preference loss"
    hook: ClassVar[str] = "prefopt_preference_losses"

    @property
    def couples_pairs(self) -> bool:
        """Whether, as configured, the loss of one pair depends on other pairs. It does not unless it says so."""
        return False

    @property
    def sorts_pairs(self) -> bool:
        """Whether its losses come in another order than the pairs, so that none can be weighed by its pair."""
        return False

    @property
    def reads_whole_responses(self) -> bool:
        """Whether it adds a term of all of a response's tokens, which units, of which each has a loss, would repeat."""
        return False

    def build(self) -> LossFunction:
        """The function that takes the loss: this component itself, unless it has something to keep."""
        return self  # type: ignore[return-value]  # what is not callable, the objective refuses


class Regularizer(Component):
    """A term added to the loss of each pair: (TokenBatch, w [N, T], v [N, T]) -> [B].

    w weighs the log-ratios, v the divergence; without a divergence term v is zero.
    """

    kind: ClassVar[str] = "regularizer"
    hook: ClassVar[str] = "prefopt_regularizers"

    @abstractmethod
    def __call__(self, tokens: TokenBatch, weights: Tensor, divergence_weights: Tensor) -> Tensor:
        """-> [B]."""


def built(component: TokenWeighting | Units | PreferenceLoss, **shape: int) -> Callable[..., Any]:
    """What the component builds, of models of that shape but for a loss. Raises TypeError where it cannot be called, or
    is a class."""
    function: object = component.build(**shape)
    if function is component and not callable(function):
        raise TypeError(f"{type(component).__name__} neither is callable nor overrides build(); write one of the two")
    if isinstance(function, type) or not callable(function):
        given = f"the class {function.__name__}" if isinstance(function, type) else repr(function)
        raise TypeError(f"build() of {component.kind} {component.name!r} returns {given}; return a function or module")
    return function
