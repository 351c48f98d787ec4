"""What a component is: a frozen configuration that is also the mathematics, in one of six kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, final

import torch
from pydantic import ConfigDict, model_validator
from torch import Tensor, nn

from prefopt.columns import Column
from prefopt.signals import Signal, reject_other_signals
from prefopt.tokens import TokenBatch
from prefopt.validation import Settings

__all__ = [
    "BackwardBlock",
    "Component",
    "Divergence",
    "ExactDivergence",
    "LossFunction",
    "Named",
    "PreferenceLoss",
    "Regularizer",
    "RewardShaping",
    "SampledDivergence",
    "Signal",
    "StreamedDivergence",
    "TokenWeighting",
    "Units",
    "WeightFunction",
    "weights_and_penalty",
]

WeightFunction = Callable[[TokenBatch], Tensor]
LossFunction = Callable[[Tensor, Tensor, TokenBatch], Tensor]


class Named(Settings, ABC):
    """What a plugin can bring: a value that is found by its name.

    A concrete class fixes `name: Literal["..."] = "..."`. It is frozen and refuses unknown fields, compares and hashes
    by value, and round-trips through JSON and YAML.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    kind: ClassVar[str]
    """The kind in words, such as "token weighting"."""
    hook: ClassVar[str]
    """The name of the hook that brings classes of the kind."""

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

    @property
    def expected_failures(self) -> Mapping[str, str]:
        """The conformance checks that it fails by design, as configured -> the reason. None unless it says so."""
        return {}

    @model_validator(mode="after")
    def _requires_signals(self) -> Self:
        reject_other_signals(self.requires)
        return self


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


class Divergence(Component):
    """The distance of the policy from the reference at one position, >= 0, and 0 iff they are equal there.

    Subclass `ExactDivergence`, of both distributions over the vocabulary, or `SampledDivergence`, of the token alone.
    """

    kind: ClassVar[str] = "divergence"
    hook: ClassVar[str] = "prefopt_divergences"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Divergence in cls.__bases__ and cls.__module__ != __name__:
            raise TypeError(f"{cls.__name__}: derive it from ExactDivergence or SampledDivergence, not from Divergence")

    @abstractmethod
    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """-> [...], from the log-probabilities of policy and reference."""


class SampledDivergence(Divergence):
    """An estimate from the log-probabilities of the response's own token: (logps, ref_logps: [...]) -> [...]. It costs
    no pass over the vocabulary. Its name begins with "sampled_"."""


class ExactDivergence(Divergence):
    """A function of both log-probabilities over the vocabulary: (logps, ref_logps: [..., V]) -> [...]."""

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        """dD/dlogits of the policy, [..., V], where `value` [...] is D. By default autograd through `__call__`; a
        closed form saves memory and time."""
        with torch.enable_grad():
            logits = logps.detach().requires_grad_()
            divergence = self(logits.log_softmax(-1), ref_logps)
            (gradient,) = torch.autograd.grad(divergence.sum(), logits)
        return gradient


@final
@dataclass(frozen=True, eq=False)
class BackwardBlock:
    """What the backward pass of a StreamedDivergence reads for C tokens and a block of V' token ids.

    exps [V', C]                exp(z - a); the gradient may be written over it
    saved [V', C]               what `block_forward` left in `ref_exps`; may be overwritten
    scale, ref_scale [C]        exp(a) / Z and exp(b) / R
    log_normaliser_ratio [C]    log Z - log R
    value [C]                   D
    g_logps, g_value [C]        gradients of the loss in the label's log-probability and in D
    """

    exps: Tensor
    saved: Tensor
    scale: Tensor
    ref_scale: Tensor
    log_normaliser_ratio: Tensor
    value: Tensor
    g_logps: Tensor
    g_value: Tensor


class StreamedDivergence(ExactDivergence):
    """A divergence computed by online softmax, block by block of the vocabulary, from unnormalised logits.

    z are the policy's logits, r the reference's, Z and R their normalisers. For a block of V' token ids and C tokens
    with a and b [C] about their maxima, it is given exp(z - a), exp(r - b) and z - r, [V', C] each. Then

        p = exp(z - a) exp(a) / Z,   q = exp(r - b) exp(b) / R,   log p - log q = z - r - (log Z - log R)
    """

    @abstractmethod
    def block_forward(self, exps: Tensor, ref_exps: Tensor, log_ratio: Tensor) -> Tensor:
        """The block's partial sum, [C], from exp(z - a), exp(r - b) and z - r, [V', C]. `log_ratio` may be overwritten,
        and so may `ref_exps`, which `block_backward` reads as `saved`."""

    @abstractmethod
    def combine(self, sums: Tensor, scale: Tensor, ref_scale: Tensor, log_normaliser_ratio: Tensor) -> Tensor:
        """D [C] from the partial sums [blocks, C], exp(a) / Z and exp(b) / R [blocks, C], and log Z - log R [C]."""

    @abstractmethod
    def block_backward(self, block: BackwardBlock) -> Tensor:
        """g_value dD/dz - g_logps p, [V', C]: the gradient of the block's logits, without the labels' own entries."""


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
