"""The order of training pairs: the same on any number of processes, and in a run that goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


@final
class LengthGroups(Sampler[int]):
    """Numbers of pairs, those of like length next to each other, drawn by the seed and the epoch alone.

    Transformers draws such an order from the random state of the process, and for the pairs of one process: another
    number of processes has other steps, a run that is resumed another order, and processes that have drawn unlike
    numbers (dropout, samples) have an order each, so that pairs come twice and others never.

    lengths  of the pairs
    pairs    of a step, over its batches and all processes
    """

    def __init__(self, lengths: Sequence[int], pairs: int, seed: int) -> None:
        self._lengths, self._pairs, self._seed = list(lengths), pairs, seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Draw that epoch's order from here on; data loaders call it."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._pairs, generator=generator))


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell an accelerate data loader, and every sampler below it, the epoch: where several processes skip the first
    batches, accelerate does not reach that of `batch_rebalance`, and pairs come in the first epoch's order."""
    part = loader
    while part is not None:
        for listener in (part, getattr(part, "sampler", None)):
            if listener is not None and hasattr(listener, "set_epoch"):
                listener.set_epoch(epoch)
        part = getattr(part, "batch_sampler", None)
