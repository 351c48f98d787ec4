"""How a mask starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from prefopt.weightings.sparse.mask import SparseMask


@torch.no_grad()
def _published(mask: SparseMask) -> None:
    nn.init.normal_(mask.weight, std=0.02)
    if mask.mixer is not None:
        nn.init.normal_(mask.mixer, std=0.02)
    if mask.hidden is not None:
        nn.init.normal_(mask.hidden.weight, std=0.02)


@torch.no_grad()
def _near_one(mask: SparseMask) -> None:
    mask.bias.fill_(mask.gate.start)
    if mask.mixer is not None:
        # Multiples of 2^-20 add up to 1 exactly, in any order; 1 / L of 12 layers, say, does not in float32.
        layers, parts = len(mask.mixer), 2**20
        shares = torch.full((layers,), parts // layers)
        shares[: parts % layers] += 1
        mask.mixer.copy_(shares / parts)
    if mask.hidden is not None:  # what it says is weighed by zero at first, so it has to say something
        nn.init.normal_(mask.hidden.weight, std=mask.hidden.weight.shape[-1] ** -0.5)


INITIALISERS: Mapping[str, Callable[[SparseMask], None]] = MappingProxyType(
    {"published": _published, "near_one": _near_one}
)
"""Fills the parameters of a mask that are all zero, by name."""
