"""What the weightings with a fault share."""

from __future__ import annotations

import torch
from torch import Tensor

from prefopt.component import Signal
from prefopt.tokens import TokenBatch

STATES = frozenset({Signal.REF_HIDDEN_STATES})
ACTIVATIONS = frozenset({Signal.REF_ACTIVATIONS})


def level(tokens: TokenBatch, value: float | Tensor) -> Tensor:
    """That weight on every response token."""
    return torch.where(tokens.mask, torch.as_tensor(value, dtype=tokens.logps.dtype), 0)
