"""Sparsemax and entmax over a response, a token weighting for prefopt that is learned."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Literal, final

import entmax
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from prefopt import Signal, TokenBatch, TokenWeighting, hookimpl

__all__ = ["EntmaxMask", "EntmaxWeighting"]

_STATES = MappingProxyType({"predicting": Signal.REF_HIDDEN_STATES, "token": Signal.REF_TOKEN_STATES})
_SORTED = MappingProxyType({1.5: entmax.entmax15, 2.0: entmax.sparsemax})
"""The exact mappings; for another alpha there is bisection."""


@final
class EntmaxWeighting(TokenWeighting):
    """w_t = T entmax_alpha(s)_t, s_t = mean_l u_l . LN(h_l), over the T tokens of a response, l = 1..L the layers.

    entmax_alpha(s) = argmax over p >= 0, sum p = 1, of p . s + (sum_t (p_t - p_t^alpha)) / (alpha (alpha - 1)): its
    weights are exactly zero far below the best score; alpha = 2 is sparsemax, alpha -> 1 softmax. The mean of w over a
    response is 1. u is learned, LN has no parameters. u starts at 0, where every weight is 1.
    `position` says whose states h are: those at the position that predicts y_t or those at y_t's own ("token").
    Source: entmax (arXiv 1905.05702), sparsemax (arXiv 1602.02068); their use as weights of tokens: this package.
    """

    name: Literal["entmax"] = "entmax"
    alpha: float = Field(default=1.5, gt=1, le=2)
    position: Literal["predicting", "token"] = "predicting"

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({_STATES[self.position]})

    def build(self, *, num_layers: int, hidden_size: int) -> EntmaxMask:
        """The learned weights for a reference of that many layers and that hidden size."""
        return EntmaxMask(num_layers, hidden_size, states=_STATES[self.position], alpha=self.alpha)


@final
class EntmaxMask(nn.Module):
    """The network of EntmaxWeighting: (TokenBatch) -> [N, T]. Parameters are float32 whatever the models' precision."""

    def __init__(self, num_layers: int, hidden_size: int, *, states: Signal, alpha: float) -> None:
        super().__init__()
        self.states = states
        self.weight = nn.Parameter(torch.zeros(num_layers, hidden_size))
        self.mapping = _SORTED.get(alpha) or partial(entmax.entmax_bisect, alpha=alpha)
        # The package writes its autograd functions as class methods, which torch.compile cannot look into.
        torch.compiler.allow_in_graph(getattr(self.mapping, "func", self.mapping))  # type: ignore[no-untyped-call]

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Reads the states [L, N, T, H] -> [N, T]."""
        states: Tensor = getattr(tokens, self.states)
        layers, hidden_size = self.weight.shape
        if len(states) != layers:
            raise ValueError(f"entmax mask: built for {layers} layers, but the reference gave states of {len(states)}")
        x = layer_norm(states.detach()[:, tokens.mask].to(self.weight.dtype), (hidden_size,))
        token_scores = torch.einsum("lnh,lh->n", x, self.weight) / layers
        scores = token_scores.new_full(tokens.mask.shape, -torch.inf).masked_scatter(tokens.mask, token_scores)
        lengths = tokens.mask.sum(-1, keepdim=True)
        # A response without tokens would have no score but -inf, of which there is no distribution.
        shares: Tensor = self.mapping(torch.where(lengths > 0, scores, 0), dim=-1)
        return torch.where(tokens.mask, lengths * shares, 0)


@hookimpl
def prefopt_token_weightings() -> list[type[TokenWeighting]]:
    return [EntmaxWeighting]
