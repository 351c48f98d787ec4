"""The kinds of divergence: of the token alone, of both distributions, and of these block by block."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from prefopt.component.base import Component

__all__ = ["BackwardBlock", "Divergence", "ExactDivergence", "SampledDivergence", "StreamedDivergence"]


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
        """dD/dlogits of the policy, [..., V], where `value` [...] is D, and 0 where that is infinite, which only a
        weight of 0 lets pass. By default autograd through `__call__`; a closed form saves memory and time."""
        with torch.enable_grad():
            logits = logps.detach().requires_grad_()
            divergence = self(logits.log_softmax(-1), ref_logps)
            (gradient,) = torch.autograd.grad(divergence.sum(), logits)
        return torch.where(value.isinf()[..., None], 0, gradient)


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

    On a CPU several threads take blocks at the same time, in any order: nothing is kept between calls.
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
