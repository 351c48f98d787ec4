"""Divergences of the policy from the reference at one position, exact over the vocabulary.

p is the policy's distribution and q the reference's. The names say which way round: "forward" is KL(reference ||
policy), the one that TDPO, MaPO and SparsePO use.

Sums are `nansum`s: 0 times infinity is nan, and a probability of zero silences any value.
"""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import BackwardBlock, ExactDivergence, StreamedDivergence


def _expectation(log_weights: Tensor, values: Tensor) -> Tensor:
    """sum_v exp(log_weights)_v values_v, [..., V] -> [...]; a weight of zero silences any value, even infinity, and its
    gradient. An infinite expectation has a gradient of zero, lest a weight of zero of its own make it nan. `values` is
    overwritten where it takes no gradient: that saves two passes over the vocabulary.
    """
    weights = log_weights.exp()
    if values.requires_grad:
        counted = torch.where(weights > 0, values, 0)
        infinite = counted.isinf().any(-1)
        finite = (weights * torch.where(infinite[..., None], 0, counted)).sum(-1)
        return torch.where(infinite, (weights * counted).sum(-1).detach(), finite)
    return values.mul_(weights).nansum(-1)


def _unless_broken(value: Tensor, logps: Tensor, ref_logps: Tensor) -> Tensor:
    """The value, but nan where the logits held one: it is in all log-probabilities of its position then."""
    return torch.where((logps[..., 0] + ref_logps[..., 0]).isnan(), math.nan, value)


@final
class ForwardKL(StreamedDivergence):
    """D = KL(q || p) = sum_v q_v (log q_v - log p_v).

    dD/dz = p - q. Infinite where the policy excludes a token that the reference allows.
    Source: the sequential KL of TDPO (arXiv 2404.11999), token by token.

    >>> ForwardKL()(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
    tensor(0.1308)
    """

    name: Literal["forward_kl"] = "forward_kl"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [..., V] -> [...]."""
        return _unless_broken(_expectation(ref_logps, ref_logps - logps).clamp(min=0), logps, ref_logps)

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        """p - q, [..., V]."""
        return logps.exp().sub_(ref_logps.exp())

    def block_forward(self, exps: Tensor, ref_exps: Tensor, log_ratio: Tensor) -> Tensor:
        """exp(r) (r - z) of a block."""
        return -log_ratio.mul_(ref_exps).nansum(0)

    def combine(self, sums: Tensor, scale: Tensor, ref_scale: Tensor, log_normaliser_ratio: Tensor) -> Tensor:
        """sum_v q_v (r_v - z_v) + log Z - log R."""
        return ((sums * ref_scale).nansum(0) + log_normaliser_ratio).clamp(min=0)

    def block_backward(self, block: BackwardBlock) -> Tensor:
        """(g_value - g_logps) p - g_value q."""
        gradient = block.exps.mul_(block.scale * (block.g_value - block.g_logps))
        return gradient.addcmul_(block.saved, -block.ref_scale * block.g_value)


@final
class ReverseKL(StreamedDivergence):
    """D = KL(p || q) = sum_v p_v (log p_v - log q_v).

    dD/dz_v = p_v (log p_v - log q_v - D). Infinite where the policy allows a token that the reference excludes.
    Source: the KL of the RLHF objective, DPO (arXiv 2305.18290) eq. 3, token by token.

    >>> ReverseKL()(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
    tensor(0.1438)
    """

    name: Literal["reverse_kl"] = "reverse_kl"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [..., V] -> [...]."""
        return _unless_broken(_expectation(logps, logps - ref_logps).clamp(min=0), logps, ref_logps)

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        """p (log p - log q - D), [..., V]; 0 where D is infinite, lest a weight of 0 make it nan."""
        return _weighted(logps, logps - ref_logps - value[..., None], value.isinf())

    def block_forward(self, exps: Tensor, ref_exps: Tensor, log_ratio: Tensor) -> Tensor:
        """exp(z) (z - r) of a block; backward needs z - r."""
        ref_exps.copy_(log_ratio)
        return log_ratio.mul_(exps).nansum(0)

    def combine(self, sums: Tensor, scale: Tensor, ref_scale: Tensor, log_normaliser_ratio: Tensor) -> Tensor:
        """sum_v p_v (z_v - r_v) - (log Z - log R)."""
        return ((sums * scale).nansum(0) - log_normaliser_ratio).clamp(min=0)

    def block_backward(self, block: BackwardBlock) -> Tensor:
        """p (g_value (log p - log q - D) - g_logps)."""
        # nan where D is infinite, which is silenced: its gradient is 0, lest a weight of 0 make it nan.
        offset = torch.where(block.value.isinf(), math.nan, block.log_normaliser_ratio + block.value)
        centred = block.saved.sub_(offset).mul_(block.exps)
        centred.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)
        return block.exps.mul_(-block.g_logps * block.scale).addcmul_(centred, block.g_value * block.scale)


@final
class JensenShannon(ExactDivergence):
    """D = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2.

    At most ln 2, and finite whatever the logits.
    dD/dz_v = p_v (log p_v - log m_v - KL(p || m)) / 2.
    Source: Lin 1991, Divergence measures based on the Shannon entropy.

    >>> JensenShannon()(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
    tensor(0.0338)
    """

    name: Literal["jensen_shannon"] = "jensen_shannon"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [..., V] -> [...]."""
        log_ratio, log_max = _log_ratio_and_max(logps, ref_logps)
        log_mean = _log_mean(log_ratio)  # (p + q) log(m / max) + min log(max / min), where the first orders cancel
        smaller = (log_max - log_ratio.abs()).exp()
        values = (log_max.exp() + smaller) * log_mean + smaller * log_ratio.abs()
        return (values.sum(-1) / -2).clamp(min=0)

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        """p (log p - log m - KL(p || m)) / 2, [..., V]."""
        log_ratio, _ = _log_ratio_and_max(logps, ref_logps)
        ratio = -_log_mean(log_ratio) - log_ratio.clamp(min=0)
        return _weighted(logps, ratio - _expectation(logps, ratio.clone())[..., None]) / 2


@final
class AlphaDivergence(ExactDivergence):
    """D = (1 - sum_v q_v^a p_v^(1-a)) / (a (1 - a)).

    0 < a < 1; forward KL as a -> 1, reverse KL as a -> 0.
    dD/dz_v = (p_v S - q_v^a p_v^(1-a)) / a with S = sum_v q_v^a p_v^(1-a).
    Source: Amari 1985, Differential-geometrical methods in statistics, up to the naming of a.

    >>> AlphaDivergence(a=0.5)(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
    tensor(0.1363)
    """

    name: Literal["alpha"] = "alpha"
    a: float = Field(default=0.5, gt=0, lt=1)

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [..., V] -> [...]."""
        # The sum of a q + (1 - a) p - q^a p^(1-a), no term negative, written such that nothing cancels for p near
        # q or a near 0 or 1: max(p, q) times b (e^d - 1) - (e^(b d) - 1), with d = -|log q - log p|, b the smaller of a
        # and 1 - a; or -b (e^d - 1) + e^((1-b) d) (e^(b d) - 1) where b is the weight of the larger one.
        small, a_is_small = min(self.a, 1 - self.a), self.a <= 0.5
        log_ratio, log_max = _log_ratio_and_max(logps, ref_logps)
        distance = -log_ratio.abs()
        of_larger = log_ratio > 0 if a_is_small else log_ratio < 0
        scale = torch.where(of_larger, -((1 - small) * distance).exp(), 1)
        terms = small * torch.where(of_larger, -1, 1) * distance.expm1() - scale * (small * distance).expm1()
        return (log_max.exp() * terms).sum(-1).clamp(min=0) / (self.a * (1 - self.a))

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        """(p S - q^a p^(1-a)) / a = (p - q^a p^(1-a)) / a - (1 - a) p D, [..., V]."""
        log_ratio, _ = _log_ratio_and_max(logps, ref_logps)
        larger = (logps + self.a * log_ratio.clamp(min=0)).exp()  # of p and q^a p^(1-a)
        gap = log_ratio.sign() * larger * (-self.a * log_ratio.abs()).expm1()
        return gap / self.a - (1 - self.a) * value[..., None] * logps.exp()


@final
class TotalVariation(ExactDivergence):
    """D = (1/2) sum_v |p_v - q_v|.

    At most 1, and finite whatever the logits.
    dD/dz_v = p_v (s_v - sum_u p_u s_u) / 2, with s_v the sign of p_v - q_v.
    Source: its definition, as in Gibbs and Su 2002, On choosing and bounding probability metrics.

    >>> TotalVariation()(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
    tensor(0.2500)
    """

    name: Literal["total_variation"] = "total_variation"

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [..., V] -> [...]."""
        return (logps.exp() - ref_logps.exp()).abs().sum(-1) / 2

    def logit_gradient(self, logps: Tensor, ref_logps: Tensor, value: Tensor) -> Tensor:
        """p (s - sum p s) / 2, [..., V]."""
        probs = logps.exp()
        signs = (probs - ref_logps.exp()).sign()
        return probs * (signs - (probs * signs).sum(-1, keepdim=True)) / 2


def _log_ratio_and_max(logps: Tensor, ref_logps: Tensor) -> tuple[Tensor, Tensor]:
    """log q - log p, exactly 0 where they are equal, and log max(p, q), [..., V]. The clamps move no probability; where
    both models exclude a token, infinity less infinity has neither a value nor a derivative without them."""
    lowest = torch.finfo(logps.dtype).min
    policy, reference = logps.clamp(min=lowest), ref_logps.clamp(min=lowest)
    return reference - policy, torch.maximum(policy, reference)


def _log_mean(log_ratio: Tensor) -> Tensor:
    """log(m / max(p, q)) with m = (p + q) / 2, [..., V], from log q - log p; 0 where they are equal."""
    return (torch.expm1(-log_ratio.abs()) / 2).log1p()


def _weighted(logps: Tensor, values: Tensor, but: Tensor | None = None) -> Tensor:
    """p_v values_v, [..., V], where p_v = 0 makes any value count nothing; 0 where `but` [...] is true."""
    probs = logps.exp()
    floor = 0 if but is None else torch.where(but, math.inf, 0)[..., None]
    return torch.where(probs > floor, probs * values, 0)
