"""The reference and its cache: how one is opened, and what is left of a reference that need not be run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from prefopt.objective import ObjectiveConfig
from prefopt.scoring.forward import ModelStates, causal_lm, turn_dropout_off
from prefopt.scoring.lm_head.buffer_pool import Workspace
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.token_statistics import dense_statistics, token_statistics
from prefopt.scoring.reference.cache import ReferenceCache, fingerprint
from prefopt.scoring.reference.tensor_store import StoreError

__all__ = ["ReleasedReference", "opened", "with_logps"]


@final
class ReleasedReference(nn.Module):
    """The reference's head, where the cache keeps hidden states that it turns into distributions, and how to load the
    rest again.

    reload  makes the reference anew; None: it cannot be
    """

    def __init__(
        self, reference: nn.Module, cache: ReferenceCache, reload: Callable[[], nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.folder = cache.folder
        self.reload = reload
        self.dtype = cache.dtype
        head = Head.of(causal_lm(reference)) if cache.keeps_distributions else None
        # As parameters they follow the model to other devices. They are the reference's own tensors, not copies.
        self.weight = _frozen(None if head is None else head.weight)
        self.bias = _frozen(None if head is None else head.bias)
        self._form = None if head is None else (head.scale, head.softcap)

    @property
    def head(self) -> Head:
        """The reference's head."""
        assert self.weight is not None
        assert self._form is not None
        return Head(self.weight, self.bias, *self._form)

    def bring_back(self, device: torch.device) -> nn.Module:
        """The reference, loaded again. Raises StoreError where that is not what the cache was filled from."""
        if self.reload is None:
            raise StoreError(
                f"{self.folder}: the cache does not hold these responses, and the reference was released; have it "
                "asked about them before (`ask_reference`), or release it with a function that loads it again"
            )
        reference = self.reload().to(device)
        if fingerprint(reference, self.dtype) != self.folder.name:
            raise StoreError(
                f"{self.folder}: the cache does not hold these responses, and the reference that was loaded again for "
                "them is another one than the cache was filled from; give the model that it was"
            )
        turn_dropout_off(reference)
        return reference.requires_grad_(False)


def opened(folder: str | Path, reference: nn.Module, config: ObjectiveConfig, *, plain: bool) -> ReferenceCache:
    """The reference's cache in a folder. Raises ValueError where it would have to keep a head's input, but the model is
    called plainly.
    """
    lm = causal_lm(reference)
    device = lm.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else lm.dtype
    cache = ReferenceCache(folder, reference, config, dtype)
    if plain and cache.keeps_distributions:
        raise ValueError(
            "reference_cache: this objective needs the reference's whole distribution, of which the cache keeps the "
            "hidden states, but the model is called plainly (see the warning above); leave the cache out"
        )
    return cache


@torch.no_grad()
def with_logps(states: ModelStates, head: Head | None, labels: Tensor, workspace: Workspace) -> ModelStates:
    """The states of a reference that has just been run, with its log-probabilities of the labels [M]. Without a head
    they are logits."""
    if head is None:
        return replace(states, logps=dense_statistics(states.computed, None, labels).logps)
    return replace(states, logps=token_statistics(states.computed, head, None, None, labels, workspace=workspace).logps)


def _frozen(tensor: Tensor | None) -> nn.Parameter | None:
    return None if tensor is None else nn.Parameter(tensor.detach(), requires_grad=False)
