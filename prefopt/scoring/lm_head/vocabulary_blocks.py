"""Blocks of the vocabulary that fit a CPU core's cache, and the labels that are in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Lock
from typing import final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.lm_head.worker_threads import MOST_WORKERS, run_in_threads

_BLOCK_BYTES = 2**20
"""A block of one model's logits: those of both models and their differences stay in the cache from product to pass to
product. In smaller blocks, each of which costs some 0.25 ms of Python, nothing more is gained."""

_BLOCK_MULTIPLE = 64
"""Blocks are multiples of so many token ids: products of odd sizes are slow."""


@final
class VocabularyBlocks:
    """Slices of the vocabulary, the workers among which they are dealt, and where the labels of a chunk's C tokens are
    in logits [models, V', C] of each.

    Every worker takes the next block as soon as it is free, since cores are not equally fast.

    Raises IndexError for a label that is no token id.
    """

    def __init__(self, labels: Tensor, vocabulary: int, rows: int, workers: int) -> None:
        self.workers = workers
        unit = math.gcd(rows, _BLOCK_MULTIPLE)
        units = -(-vocabulary // unit)
        count = min(units, workers * -(-vocabulary // (workers * rows)))
        bounds = [*(unit * (units * index // count) for index in range(count)), vocabulary]
        self.slices = list(map(slice, bounds[:-1], bounds[1:]))
        self.sizes = [block.stop - block.start for block in self.slices]
        self.rows = max(self.sizes)
        ordered, self._order = labels.sort()
        starts = torch.tensor(bounds)
        counts = torch.searchsorted(ordered, starts).diff().tolist()
        if sum(counts) < len(labels):
            raise IndexError(f"labels are {ordered[0]} to {ordered[-1]}; the head has token ids 0 to {vocabulary - 1}")
        row = ordered - starts[torch.bucketize(ordered, starts, right=True) - 1]
        self._entries = torch.split(row * len(labels) + self._order, counts)

    def run(self, work: Callable[[int, int], object]) -> None:
        """work(index, worker) of all blocks, the first one of them first, at the same time by different workers."""
        indices, lock = iter(range(len(self.slices))), Lock()

        def following() -> int | None:
            with lock:
                return next(indices, None)

        def take(worker: int) -> None:
            while (index := following()) is not None:
                work(index, worker)

        run_in_threads(take, self.workers)

    def at_labels(self, index: int, logits: Tensor) -> Tensor:
        """Those of a block's logits [models, V', C] that are at labels, [models, n] in the order that `by_token`
        takes."""
        return logits.view(len(logits), -1).index_select(1, self._entries[index])

    def by_token(self, at_labels: list[Tensor]) -> Tensor:
        """[models, C] from `at_labels` of all blocks in order."""
        values = torch.cat(at_labels, -1)
        return torch.empty_like(values).index_copy_(-1, self._order, values)


def worker_count(vocabulary: int, rows: int) -> int:
    """The workers for blocks of so many token ids: as many as there are threads and as have two blocks each."""
    return max(1, min(torch.get_num_threads(), MOST_WORKERS, vocabulary // (2 * rows)))


def block_rows(tokens: int, dtype: torch.dtype) -> int:
    """The most token ids of a block for so many tokens, whose hidden states have this dtype."""
    entry = torch.finfo(wide(dtype)).bits // 8
    return max(1, _BLOCK_BYTES // (entry * tokens * _BLOCK_MULTIPLE)) * _BLOCK_MULTIPLE
