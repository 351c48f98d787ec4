"""MaPO's weights: how strongly the reference's sites respond where each token is predicted."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import Signal, TokenWeighting
from prefopt.tokens import TokenBatch

__all__ = ["ActivationWeighting"]

SiteKind = Literal["mlp", "attn", "resid", "logits"]


@final
class ActivationWeighting(TokenWeighting):
    """w_t = mean over kinds, of the mean over a kind's sites, of minmax(a)_t, a_t a site's mean activation.

    minmax maps the response's smallest activation to 0 and its largest to 1. (The paper standardises before that; an
    affine map changes nothing under minmax.) A response whose activations are all equal at a site, one token among
    them, says nothing about which token matters: its weights there are 1. No gradient reaches any model.
    Source: MaPO, in the SparsePO paper (arXiv 2410.05102).
    """

    name: Literal["activation"] = "activation"
    sites: tuple[SiteKind, ...] = Field(default=("mlp", "attn", "resid", "logits"), min_length=1)

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({Signal.REF_ACTIVATIONS})

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset(self.sites)

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """Reads ref_activations [S, N, T] -> [N, T], in [0, 1]."""
        assert tokens.ref_activations is not None
        rescaled = _minmax(tokens.ref_activations.detach(), tokens.mask)
        by_kind = []
        for kind in self.sites:
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
