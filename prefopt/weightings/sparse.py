"""SparsePO's weights: a small network reads the reference's hidden states and learns which tokens count."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from prefopt.component import Signal, TokenWeighting
from prefopt.tokens import TokenBatch

__all__ = ["SparseMask", "SparseWeighting"]

_STATES = MappingProxyType({"predicting": Signal.REF_HIDDEN_STATES, "token": Signal.REF_TOKEN_STATES})


@final
class SparseWeighting(TokenWeighting):
    """w_t = relu(sum_l c_l relu(u_l . LN(h_l) + b_l)) over the reference's layers l = 1..L.

    The parameters u, b, c and those of LN (one LayerNorm for all layers) are learned.
    `position` says whose states h are: those at the position that predicts y_t (the paper: a function of the context
    that cannot see y_t) or those at y_t's own ("token"). `init` is "published" (u and c from N(0, 0.02): weights
    start near 0, some seeds all-zero) or "near_one" (u = 0, b = 1, c = 1/L up to 2^-20 with sum c = 1: every weight
    starts at exactly 1).
    Weights are unbounded above, and exact zeros come from the outer relu. Dropout acts on a_l and on w in training.
    Source: SparsePO (arXiv 2410.05102), its mask over all layers.
    """

    name: Literal["sparse"] = "sparse"
    position: Literal["predicting", "token"] = "predicting"
    init: Literal["published", "near_one"] = "published"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({_STATES[self.position]})

    def build(self, *, num_layers: int, hidden_size: int) -> SparseMask:
        """The learned mask for a reference of that many layers and that hidden size."""
        mask = SparseMask(num_layers, hidden_size, states=_STATES[self.position], dropout=self.dropout)
        _INITIALISERS[self.init](mask)
        return mask


@final
class SparseMask(nn.Module):
    """The network of SparseWeighting: (TokenBatch) -> [N, T]. Parameters are float32 whatever the models' precision."""

    def __init__(self, num_layers: int, hidden_size: int, *, states: Signal, dropout: float) -> None:
        super().__init__()
        self.states = states
        self.norm = nn.LayerNorm(hidden_size)
        self.weight = nn.Parameter(torch.zeros(num_layers, hidden_size))
        self.bias = nn.Parameter(torch.zeros(num_layers))
        self.mixer = nn.Parameter(torch.zeros(num_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Reads the states [L, N, T, H] -> [N, T]."""
        states: Tensor = getattr(tokens, self.states)
        layers, rows, length, _ = states.shape
        if layers != len(self.mixer):
            raise ValueError(
                f"sparse mask: built for {len(self.mixer)} layers, but the reference gave states of {layers}"
            )
        # LN(h) = x * gain + shift, and only x is as large as the states. It is a constant, so nothing but itself has to
        # be kept for backward, and what LN learns takes its gradient through two small products.
        x = layer_norm(
            states.detach()[:, tokens.mask].to(self.weight.dtype), self.norm.normalized_shape, eps=self.norm.eps
        )
        units, shift = self.weight * self.norm.weight, self.weight @ self.norm.bias + self.bias
        scores = (x @ units[..., None])[..., 0] + shift[:, None]
        activations = self.dropout(torch.relu(scores))
        weights: Tensor = self.dropout(torch.relu(self.mixer @ activations))
        return weights.new_zeros(rows, length).masked_scatter(tokens.mask, weights)


@torch.no_grad()
def _published(mask: SparseMask) -> None:
    nn.init.normal_(mask.weight, std=0.02)
    nn.init.normal_(mask.mixer, std=0.02)


@torch.no_grad()
def _near_one(mask: SparseMask) -> None:
    mask.bias.fill_(1)
    # Multiples of 2^-20 add up to 1 exactly, in any order; 1 / L of 12 layers, say, does not in float32.
    layers, parts = len(mask.mixer), 2**20
    shares = torch.full((layers,), parts // layers)
    shares[: parts % layers] += 1
    mask.mixer.copy_(shares / parts)


_INITIALISERS = MappingProxyType({"published": _published, "near_one": _near_one})
