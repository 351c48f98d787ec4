"""A reference that was unloaded, since its cache holds its states: its head, and how to load it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from prefopt.scoring.forward import causal_lm, turn_dropout_off
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.reference.cache import ReferenceCache, fingerprint
from prefopt.scoring.reference.tensor_store import StoreError


@final
class UnloadedReference(nn.Module):
    """The reference's head, where the cache holds last hidden states, and `load`, which loads the reference again; None
    where that is not possible."""

    def __init__(
        self, reference: nn.Module, cache: ReferenceCache, load: Callable[[], nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.folder = cache.folder
        self.load = load
        self.dtype = cache.dtype
        head = Head.from_model(causal_lm(reference)) if cache.keeps_distributions else None
        # As parameters they follow the model to other devices. They are the reference's tensors, not copies.
        self.weight = _frozen(None if head is None else head.weight)
        self.bias = _frozen(None if head is None else head.bias)
        self._scale_and_softcap = None if head is None else (head.scale, head.softcap)

    @property
    def head(self) -> Head:
        """The reference's head."""
        assert self.weight is not None
        assert self._scale_and_softcap is not None
        return Head(self.weight, self.bias, *self._scale_and_softcap)

    def reload(self, device: torch.device) -> nn.Module:
        """The reference, loaded again. Raises StoreError where it cannot be, or is not what filled the cache."""
        if self.load is None:
            raise StoreError(
                f"{self.folder}: the cache does not hold these responses, and the reference was released; add them "
                "before (`precompute_reference`), or release the reference with a function that loads it again"
            )
        reference = self.load().to(device)
        if fingerprint(reference, self.dtype) != self.folder.name:
            raise StoreError(
                f"{self.folder}: the cache does not hold these responses, and the reference that was loaded again for "
                "them is another one than the cache was filled from; give the model that it was"
            )
        turn_dropout_off(reference)
        return reference.requires_grad_(False)


def _frozen(tensor: Tensor | None) -> nn.Parameter | None:
    return None if tensor is None else nn.Parameter(tensor.detach(), requires_grad=False)
