"""What a component is: a frozen configuration that is also the mathematics, in one of five kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from prefopt.columns import Column
from prefopt.tokens import TokenBatch

__all__ = [
    "Component",
    "Divergence",
    "LossFunction",
    "Named",
    "PreferenceLoss",
    "Regularizer",
    "RewardShaping",
    "Signal",
    "StreamedDivergence",
    "TokenWeighting",
    "WeightFunction",
    "charged",
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
    REF_EMBEDDINGS = "ref_embeddings"
    REF_ACTIVATIONS = "ref_activations"

    @property
    def of_reference(self) -> bool:
        """Whether it takes a reference to have it."""
        return self not in _OF_POLICY_ALONE


_OF_POLICY_ALONE = frozenset({Signal.LOG_COLLISION})


class Named(BaseModel, ABC):
    """What a plugin can bring: a value that is found by its name.

    A concrete class fixes `name: Literal["..."] = "..."`. It is frozen and refuses unknown fields, compares and hashes
    by value, and round-trips through JSON and YAML.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    kind: ClassVar[str]
    """The kind in words, such as "token weighting"; set by each kind."""

    name: str


class Component(Named):
    """A part of an objective, as a value: its fields are its hyper-parameters, its call is its mathematics."""

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
    gradient to the policy. That module may have a penalty of its own, such as the expected number of weights that are
    not zero: then it has a method `charged` as well (see the function `charged`).
    """

    kind: ClassVar[str] = "token weighting"

    def build(self, *, num_layers: int, hidden_size: int) -> WeightFunction:
        """The function that weighs tokens: this component itself, unless it has parameters to learn."""
        return _itself(self)


def charged(function: WeightFunction, tokens: TokenBatch) -> tuple[Tensor, Tensor | None]:
    """The weights [N, T] of a function that a weighting built, and what it charges for each token, [N, T], 0 off the
    response; None where it charges nothing.

    A module that does has a method `charged`, (TokenBatch) -> (weights, charge), of which calling it gives the
    weights. An objective adds the charges of both responses to the loss of their pair. A regulariser sees the weights
    alone, and has no gradient to offer where they are zero.
    """
    if isinstance(function, nn.Module) and hasattr(function, "charged"):
        weights, charge = function.charged(tokens)  # type: ignore[operator]
        return weights, charge
    return function(tokens), None


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


class StreamedDivergence(Divergence):
    """A divergence that is taken block by block of the vocabulary, from logits that nobody has normalised.

    Where z are the policy's logits and r the reference's, a block [V', C] of C tokens comes as weights exp(z - a) and
    exp(r - b), a and b [C] the block's own, together with z - r. That takes one exponential an entry, and leaves what
    backward needs in the same place. With Z and R the normalisers, the scales of a block are exp(a) / Z and exp(b) / R,
    [C] each, `difference` [C] is log Z - log R, and so log p - log q = z - r - difference.
    """

    @abstractmethod
    def stream(self, weights: Tensor, ref_weights: Tensor, log_ratio: Tensor) -> Tensor:
        """What is summed over the vocabulary, for a block: weights, ref_weights, log_ratio z - r [V', C] -> [C].

        `log_ratio` may be overwritten; in `ref_weights` is left what `unstream` is to read.
        """

    @abstractmethod
    def streamed(self, sums: Tensor, scale: Tensor, ref_scale: Tensor, difference: Tensor) -> Tensor:
        """D from the sums of all blocks: sums, scale, ref_scale [blocks, C], difference [C] -> [C]."""

    @abstractmethod
    def unstream(
        self,
        weights: Tensor,
        left: Tensor,
        scale: Tensor,
        ref_scale: Tensor,
        difference: Tensor,
        value: Tensor,
        g_logps: Tensor,
        g_value: Tensor,
    ) -> Tensor:
        """g_value dD/dz - g_logps p of a block, [V', C], in the place of `weights`: what reaches its logits, but for
        the label's own entry. `left` [V', C] is what `stream` left, all else is [C], and `value` D.
        """


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
