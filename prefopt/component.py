"""What a component is: a frozen configuration that is also the mathematics, in one of five kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from prefopt.columns import Column
from prefopt.tokens import TokenBatch

__all__ = [
    "Component",
    "Divergence",
    "LossFunction",
    "PreferenceLoss",
    "Regularizer",
    "RewardShaping",
    "Signal",
    "TokenWeighting",
    "WeightFunction",
]

WeightFunction = Callable[[TokenBatch], Tensor]
LossFunction = Callable[[Tensor, Tensor, TokenBatch], Tensor]


class Signal(StrEnum):
    """The fields of TokenBatch that a component must say it reads: those that cost, collected only where some component
    requires them, and those that a run without a reference does not have.
    """

    LOG_COLLISION = "log_collision"
    REF_LOGPS = "ref_logps"
    DIVERGENCE = "divergence"
    REF_HIDDEN_STATES = "ref_hidden_states"
    REF_TOKEN_STATES = "ref_token_states"
    REF_ACTIVATIONS = "ref_activations"

    @property
    def of_reference(self) -> bool:
        """Whether it takes a reference to have it."""
        return self not in _OF_POLICY_ALONE


_OF_POLICY_ALONE = frozenset({Signal.LOG_COLLISION})


class Component(BaseModel, ABC):
    """A part of an objective, as a value: its fields are its hyper-parameters, its call is its mathematics.

    A concrete component fixes `name: Literal["..."] = "..."`, under which it is found. It is frozen and refuses unknown
    fields, compares and hashes by value, and round-trips through JSON and YAML.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    kind: ClassVar[str]
    """The kind in words, such as "token weighting"; set by the five kinds below."""

    name: str

    @property
    def requires(self) -> frozenset[Signal]:
        """The signals that this component reads, as configured. None unless it says so."""
        return frozenset()

    @property
    def activation_kinds(self) -> frozenset[str]:
        """The kinds of activation site to collect where `requires` holds REF_ACTIVATIONS: "mlp", "attn", "resid" and
        "logits" for the mean of a site's features, "mlp.abs" and so on for the mean of their absolute values."""
        return frozenset()

    @property
    def columns(self) -> frozenset[Column]:
        """The extra columns of the data that this component reads, as configured. None unless it says so."""
        return frozenset()


def _itself(component: Component) -> Callable[..., Tensor]:
    if not callable(component):
        raise TypeError(f"{type(component).__name__} neither is callable nor overrides build()")
    return component


class TokenWeighting(Component):
    """How much each response token counts: (TokenBatch) -> [N, T], finite, >= 0, and 0 off the response.

    A weighting with learned parameters returns an `nn.Module` of the same signature from `build`; it must not pass
    gradient to the policy.
    """

    kind: ClassVar[str] = "token weighting"

    def build(self, *, num_layers: int, hidden_size: int) -> WeightFunction:
        """The function that weighs tokens: this component itself, unless it has parameters to learn."""
        return _itself(self)


class Divergence(Component):
    """How far the policy is from the reference at one position: (logps, ref_logps: [..., V]) -> [...], >= 0, 0 iff
    equal.

    Both arguments are log-probabilities over the whole vocabulary. A divergence that is `sampled` is an estimate from
    the response's own token instead: (logps, ref_logps: [...]) -> [...] of that token's log-probabilities, 0 where they
    are equal. It costs no pass over the vocabulary, and its name says that it is an estimate.
    """

    kind: ClassVar[str] = "divergence"
    sampled: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [..., V], or [...] where it is sampled -> [...]."""

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        """dD/dlogits of the policy, [..., V], where `value` [...] is D itself.

        This differentiates `__call__`; a divergence that knows the closed form gives it, which saves memory and time.
        """
        with torch.enable_grad():
            logits = logps.detach().requires_grad_()
            divergence = self(logits.log_softmax(-1), ref_logps)
            (gradient,) = torch.autograd.grad(divergence.sum(), logits)
        return gradient

    def backward(self, logps: Tensor, ref_logps: Tensor, value: Tensor, g_logps: Tensor, g_value: Tensor) -> Tensor:
        """g_value dD/dlogits - g_logps p, [..., V], for g_logps and g_value [..., 1]: what reaches the logits from the
        divergence and from the label's log-probability, but for the label's own entry.

        It may overwrite logps and ref_logps, whose last use this is. A divergence that knows a shorter way than by
        `logit_gradient` gives it.
        """
        gradient = self.logit_gradient(logps, ref_logps, value)
        return logps.exp_().mul_(-g_logps).addcmul_(gradient, g_value)


class RewardShaping(Component):
    """From token rewards to the response's reward: (rewards [N, T], mask [N, T], is_chosen [N]) -> [N]."""

    kind: ClassVar[str] = "reward shaping"

    @abstractmethod
    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T] bool, is_chosen [N] bool -> [N]."""


class PreferenceLoss(Component):
    """The loss of a pair of response rewards: (chosen [B], rejected [B], TokenBatch) -> [B].

    The batch is there for what is not in the rewards: columns of the data, or what the models said. A loss that keeps
    something from step to step, such as a running mean, returns an `nn.Module` of the same signature from `build`, and
    keeps it in buffers, which are saved and resumed with the objective.
    `couples_pairs` says that the loss of one pair depends on other pairs.
    """

    kind: ClassVar[str] = "preference loss"

    @property
    def couples_pairs(self) -> bool:
        """Whether, as configured, it couples pairs. It does not unless it says so."""
        return False

    @property
    def sorts_pairs(self) -> bool:
        """Whether its losses come in another order than the pairs, so that none can be weighed by its pair."""
        return False

    def build(self) -> LossFunction:
        """The function that takes the loss: this component itself, unless it has something to keep."""
        return _itself(self)


class Regularizer(Component):
    """A term added to the loss of each pair: (TokenBatch, w [N, T], v [N, T]) -> [B].

    w weighs the log-ratios, v the divergence; without a divergence term v is zero.
    """

    kind: ClassVar[str] = "regularizer"

    @abstractmethod
    def __call__(self, tokens: TokenBatch, weights: Tensor, divergence_weights: Tensor) -> Tensor:
        """-> [B]."""
