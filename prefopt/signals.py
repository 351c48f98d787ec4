"""Signals: the fields of TokenBatch that a component must declare, and one table that says all of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, final

from torch import Tensor

__all__ = ["SIGNALS", "Signal", "SignalSpec", "log_collision_probability", "reject_other_signals"]


class Signal(StrEnum):
    """The fields of TokenBatch that a component declares in `requires`: those that cost, which are collected only where
    some component requires them, and those that a run without a reference lacks. `SIGNALS` says what each is.

    >>> Signal.REF_TOKEN_STATES == "ref_token_states", len(Signal)
    (True, 10)
    """

    LOG_COLLISION = "log_collision"
    REF_LOGPS = "ref_logps"
    DIVERGENCE = "divergence"
    REF_HIDDEN_STATES = "ref_hidden_states"
    REF_TOKEN_STATES = "ref_token_states"
    REF_EMBEDDINGS = "ref_embeddings"
    REF_ACTIVATIONS = "ref_activations"
    REF_INPUT_GRADIENT = "ref_input_gradient"
    LAST_STATES = "last_states"
    INPUT_GRADIENT = "input_gradient"

    @property
    def of_reference(self) -> bool:
        """Whether it takes a reference."""
        return SIGNALS[self].of_reference


@final
@dataclass(frozen=True)
class SignalSpec:
    """All that the library knows of a signal.

    shape            its axes, in the letters of `tokens.py`: N first, or second in a stack of tensors for each token
    of_reference     whether it takes a reference
    card             what a card says that it reads of the reference; empty: nothing beyond log-probabilities
    cached           whether the reference cache stores it, for each response token
    layers           which of the reference's hidden states it holds, embeddings first; None: it holds none
    positions        where these states are read: at the position that predicts y_t, or at y_t's own
    of_distribution  the number that it is of the distribution that predicts y_t, the reference's if `of_reference`, or
                     the policy's: log-probabilities [..., V] -> [...], without gradient; None: it is none
    last_states      whether it is the policy's last hidden states at the position that predicts y_t
    input_gradient   whether it is the norm of a gradient at the input embedding of y_t, for which the reference, if
                     `of_reference`, or the policy is run again, forward and backward
    """

    shape: tuple[str, ...] = ("N", "T")
    of_reference: bool = True
    card: str = ""
    cached: bool = False
    layers: slice | None = None
    positions: Literal["query_positions", "label_positions"] = "query_positions"
    of_distribution: Callable[[Tensor], Tensor] | None = None
    last_states: bool = False
    input_gradient: bool = False

    @property
    def row_axis(self) -> int:
        """The axis of responses: 0, or 1 where it is stacked."""
        return self.shape.index("N")

    @property
    def takes_ref_logits(self) -> bool:
        """Whether it takes the reference's logits at every response token."""
        return self.of_reference and self.of_distribution is not None

    def states(self, num_layers: int) -> int:
        """L: the hidden states that it holds of each response token of a model with so many layers."""
        return 0 if self.layers is None else len(range(num_layers + 1)[self.layers])


def log_collision_probability(log_probs: Tensor) -> Tensor:
    """log sum_v p_v^2 from log-probabilities, [..., V] -> [...]."""
    return (2 * log_probs).logsumexp(-1)


_EMBEDDINGS, _LAYERS = slice(1), slice(1, None)
_STATES = ("L", "N", "T", "H")

SIGNALS: Mapping[Signal, SignalSpec] = MappingProxyType(
    {
        Signal.LOG_COLLISION: SignalSpec(of_reference=False, of_distribution=log_collision_probability),
        Signal.REF_LOGPS: SignalSpec(),
        Signal.DIVERGENCE: SignalSpec(card="its whole distribution at every response token"),
        Signal.REF_HIDDEN_STATES: SignalSpec(
            shape=_STATES,
            card="its hidden states where response tokens are predicted",
            cached=True,
            layers=_LAYERS,
        ),
        Signal.REF_TOKEN_STATES: SignalSpec(
            shape=_STATES,
            card="its hidden states at response tokens",
            cached=True,
            layers=_LAYERS,
            positions="label_positions",
        ),
        Signal.REF_EMBEDDINGS: SignalSpec(
            shape=("1", "N", "T", "H"),
            card="its embeddings of response tokens",
            cached=True,
            layers=_EMBEDDINGS,
            positions="label_positions",
        ),
        Signal.REF_ACTIVATIONS: SignalSpec(
            shape=("S", "N", "T"), card="its activations where response tokens are predicted", cached=True
        ),
        Signal.REF_INPUT_GRADIENT: SignalSpec(
            card="the gradient at its embeddings of response tokens", cached=True, input_gradient=True
        ),
        Signal.LAST_STATES: SignalSpec(shape=("N", "T", "H"), of_reference=False, last_states=True),
        Signal.INPUT_GRADIENT: SignalSpec(of_reference=False, input_gradient=True),
    }
)
"""Every signal's specification."""


def reject_other_signals(requires: object) -> None:
    """Raise ValueError where what a component requires is not a set of signals."""
    form = "@property, def requires(self): return frozenset({Signal.REF_LOGPS})"
    if not isinstance(requires, Set):
        kind = "a method and no property" if callable(requires) else f"of type {type(requires).__name__}"
        raise ValueError(f"`requires` is {kind}; write it as {form}")
    for signal in requires:
        if not isinstance(signal, Signal):
            members = ", ".join(member.name for member in Signal)
            raise ValueError(f"`requires` holds {signal!r}, which is no Signal; write it as {form}. Signals: {members}")
