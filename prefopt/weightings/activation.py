"""MaPO's weights: how strongly the reference's sites respond where each token is predicted."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple, final

import torch
from pydantic import Field, field_validator
from torch import Tensor

from prefopt.component import Signal, TokenWeighting
from prefopt.tokens import TokenBatch

SiteKind = Literal["mlp", "attn", "resid", "logits"]
Reduction = Literal["zn_rescale", "sigmoid", "abs_mean"]


@final
class ActivationWeighting(TokenWeighting):
    """w_t = mean over kinds, of the mean over a kind's sites, of rescale(a)_t, a_t a site's activation at token t.

    reduction   a_t, over the features of the site   rescale, over the tokens of the response
    zn_rescale  mean                                 minmax: the smallest becomes 0, the largest 1
    abs_mean    mean of absolute values              minmax
    sigmoid     mean                                 sigmoid of the z-score (with the standard deviation over T - 1)

    (The paper standardises before minmax; an affine map changes nothing under it.) A response whose activations are
    all equal at a site, one token among them, says nothing about which token matters: all its weights there are 1, or
    sigmoid(0) = 1/2. No gradient reaches any model. Source: MaPO, in the SparsePO paper (arXiv 2410.05102), which is
    zn_rescale. Its code has another sigmoid, of each feature before their mean; the two other reductions here are ours.

    >>> sorted(ActivationWeighting(sites=("mlp",)).requires)
    [<Signal.REF_ACTIVATIONS: 'ref_activations'>]
    """

    name: Literal["activation"] = "activation"
    sites: tuple[SiteKind, ...] = Field(default=("mlp", "attn", "resid", "logits"), min_length=1)
    reduction: Reduction = "zn_rescale"

    @field_validator("sites")
    @classmethod
    def _each_site_once(cls, sites: tuple[SiteKind, ...]) -> tuple[SiteKind, ...]:
        if len(set(sites)) < len(sites):
            raise ValueError(f"each once, got {', '.join(sites)}")
        return sites

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({Signal.REF_ACTIVATIONS})

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset(self._kind(site) for site in self.sites)

    def _kind(self, site: SiteKind) -> str:
        return f"{site}{_REDUCTIONS[self.reduction].of_features}"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """Reads ref_activations [S, N, T] -> [N, T], in [0, 1]."""
        assert tokens.ref_activations is not None
        rescaled = _REDUCTIONS[self.reduction].rescale(tokens.ref_activations.detach(), tokens.mask)
        by_kind = []
        for kind in map(self._kind, self.sites):
            rows = [index for index, name in enumerate(tokens.activation_kinds) if name == kind]
            if not rows:
                raise ValueError(
                    f"activation weighting: no site of kind {kind!r} was collected from the reference; "
                    f"collected: {', '.join(sorted(set(tokens.activation_kinds))) or 'none'}"
                )
            by_kind.append(rescaled[rows].mean(0))
        return torch.stack(by_kind).mean(0)


def _minmax(values: Tensor, mask: Tensor) -> Tensor:
    """values [S, N, T], mask [N, T] -> [S, N, T]: each row's response tokens mapped onto [0, 1]; 0 off the response."""
    lowest = torch.where(mask, values, torch.inf).amin(-1, keepdim=True)
    highest = torch.where(mask, values, -torch.inf).amax(-1, keepdim=True)
    spread = highest - lowest
    flat = ~(spread > 0)
    scaled = torch.where(flat, 1.0, (values - lowest) / torch.where(flat, 1.0, spread))
    return torch.where(mask, scaled, 0)


def _sigmoid(values: Tensor, mask: Tensor) -> Tensor:
    """values [S, N, T], mask [N, T] -> [S, N, T]: sigmoid of each row's z-scores; 0 off the response.

    The z-score is taken of what minmax gives, whose z-score is the same, and which is exactly constant where there is
    no spread, so that rounding is never scaled up.
    """
    scaled, number = _minmax(values, mask), mask.sum(-1, keepdim=True)
    mean = scaled.sum(-1, keepdim=True) / number.clamp(min=1)
    deviation = torch.where(mask, scaled - mean, 0)
    std = (deviation.square().sum(-1, keepdim=True) / (number - 1).clamp(min=1)).sqrt()
    return torch.where(mask, (deviation / torch.where(std > 0, std, 1)).sigmoid(), 0)


class _Steps(NamedTuple):
    of_features: str
    """What the kinds of the sites end in, for the scorer to reduce their features so."""
    rescale: Callable[[Tensor, Tensor], Tensor]


_REDUCTIONS = MappingProxyType(
    {"zn_rescale": _Steps("", _minmax), "sigmoid": _Steps("", _sigmoid), "abs_mean": _Steps(".abs", _minmax)}
)
