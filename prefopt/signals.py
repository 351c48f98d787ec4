"""Signals: the fields of TokenBatch that a component must declare, and one table that says all of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, final

__all__ = ["SIGNALS", "Signal", "SignalSpec"]


class Signal(StrEnum):
    """The fields of TokenBatch that a component declares in `requires`: those that cost, which are collected only where
    some component requires them, and those that a run without a reference lacks. `SIGNALS` says what each is.
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
        """Whether it takes a reference."""
        return SIGNALS[self].of_reference


@final
@dataclass(frozen=True)
class SignalSpec:
    """All that the library knows of a signal.

    of_reference  whether it takes a reference
    card          what a card says that it reads of the reference; empty: nothing beyond log-probabilities
    cached        whether the reference cache stores it, for each response token
    layers        which of the reference's hidden states it holds, embeddings first: [L, N, T, H]; None: it holds none
    positions     where these states are read: at the position that predicts y_t, or at y_t's own
    """

    of_reference: bool = True
    card: str = ""
    cached: bool = False
    layers: slice | None = None
    positions: Literal["query_positions", "label_positions"] = "query_positions"

    def states(self, num_layers: int) -> int:
        """L: the hidden states that it holds of each response token of a model with so many layers."""
        return 0 if self.layers is None else len(range(num_layers + 1)[self.layers])


_EMBEDDINGS, _LAYERS = slice(1), slice(1, None)

SIGNALS: Mapping[Signal, SignalSpec] = MappingProxyType(
    {
        Signal.LOG_COLLISION: SignalSpec(of_reference=False),
        Signal.REF_LOGPS: SignalSpec(),
        Signal.DIVERGENCE: SignalSpec(card="its whole distribution at every response token"),
        Signal.REF_HIDDEN_STATES: SignalSpec(
            card="its hidden states where response tokens are predicted", cached=True, layers=_LAYERS
        ),
        Signal.REF_TOKEN_STATES: SignalSpec(
            card="its hidden states at response tokens", cached=True, layers=_LAYERS, positions="label_positions"
        ),
        Signal.REF_EMBEDDINGS: SignalSpec(
            card="its embeddings of response tokens", cached=True, layers=_EMBEDDINGS, positions="label_positions"
        ),
        Signal.REF_ACTIVATIONS: SignalSpec(card="its activations where response tokens are predicted", cached=True),
    }
)
"""Every signal's specification."""
