"""The network that SparseWeighting describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from prefopt.component import Signal
from prefopt.tokens import TokenBatch
from prefopt.weightings.budgets import Rescale
from prefopt.weightings.sparse.floor import raised
from prefopt.weightings.sparse.gates import Gate


@final
class SparseMask(nn.Module):
    """(TokenBatch) -> [N, T]. Parameters are float32 whatever the models' precision, and zero until initialised.

    num_layers   of the reference
    layers       those that are read, counted from 0
    hidden       None, or the width of a hidden layer
    mixes        whether the layers' scores are mixed by learned numbers; without it there is one layer
    floor        least mean weight of a response; 0: none
    l0           penalty of a token for being open
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        *,
        states: Signal,
        layers: Sequence[int],
        mixes: bool,
        hidden: int | None,
        gate: Gate,
        scale: Rescale,
        floor: float,
        l0: float,
        dropout: float,
    ) -> None:
        super().__init__()
        read = len(layers)
        self.num_layers = num_layers
        self.layers = slice(None) if read == num_layers else list(layers)
        self.states = states
        self.norm = nn.LayerNorm(hidden_size)
        self.hidden = None if hidden is None else HiddenLayer(read, hidden_size, hidden)
        self.weight = nn.Parameter(torch.zeros(read, hidden_size if hidden is None else hidden))
        self.bias = nn.Parameter(torch.zeros(read))
        self.mixer = nn.Parameter(torch.zeros(read)) if mixes else None
        self.gate = gate
        self.scale = scale
        self.floor = floor
        self.l0 = l0
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Reads the states [L, N, T, H] -> [N, T]."""
        return self.weights_and_penalty(tokens)[0]

    def weights_and_penalty(self, tokens: TokenBatch) -> tuple[Tensor, Tensor | None]:
        """The weights [N, T] and, where l0 is not zero, the penalty of each token, [N, T]."""
        states: Tensor = getattr(tokens, self.states)
        layers, rows, length, _ = states.shape
        if layers != self.num_layers:
            raise ValueError(
                f"sparse mask: built for {self.num_layers} layers, but the reference gave states of {layers}"
            )
        scores = self._scores(tokens.at_tokens(states.detach()[self.layers], axis=1))
        # A layer's relu loses what the floor raises: a score that is at zero has no gradient.
        activations = self.dropout(torch.relu(scores) if self.gate.rectified and not self.floor else scores)
        mixed = activations[0] if self.mixer is None else self.mixer @ activations
        mixed = raised(mixed, tokens.mask, self.floor) if self.floor else mixed
        weights: Tensor = self.dropout(self.gate(mixed, tokens.mask))
        nowhere = weights.new_zeros(rows, length)
        openness = self.gate.openness(mixed) if self.l0 else None
        penalty = None if openness is None else nowhere.masked_scatter(tokens.mask, self.l0 * openness)
        return self.scale(nowhere.masked_scatter(tokens.mask, weights), tokens), penalty

    def _scores(self, states: Tensor) -> Tensor:
        """states [L, n, H] -> [L, n]."""
        # LN(h) = x * gain + shift, and only x is as large as the states. It is a constant, so nothing but itself has to
        # be kept for backward, and what LN learns takes its gradient through two small products.
        x = layer_norm(states.to(self.weight.dtype), self.norm.normalized_shape, eps=self.norm.eps)
        if self.hidden is not None:
            hidden: Tensor = self.hidden(x, self.norm)
            return _products(self.weight, hidden) + self.bias[:, None]
        units, shift = self.weight * self.norm.weight, self.weight @ self.norm.bias + self.bias
        return _products(units, x) + shift[:, None]


def _products(weight: Tensor, states: Tensor) -> Tensor:
    """w_l . h, weight [L, H] and states [L, n, H] -> [L, n]."""
    # As a row times a matrix, which is several times faster on a CPU than the matrix times a column.
    return (weight[:, None] @ states.mT)[:, 0]


@final
class HiddenLayer(nn.Module):
    """gelu(V_l LN(h_l) + d_l), each layer with a V and d of its own; zero until initialised."""

    def __init__(self, layers: int, hidden_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, width, hidden_size))
        self.bias = nn.Parameter(torch.zeros(layers, width))

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """x [L, n, H], the states as LN standardises them, before its gain and shift -> [L, n, width]."""
        units, shift = self.weight * norm.weight, self.weight @ norm.bias + self.bias
        return gelu(x @ units.mT + shift[:, None])
