"""Blocks of the vocabulary that fit a CPU core's cache, and the labels that are in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.lm_head.worker_threads import run_in_threads

_BLOCK_BYTES = 2**20
"""A block of one model's logits: those of both models and their differences stay in the cache from product to pass to
product. In smaller blocks, each of which costs some 0.25 ms of Python, nothing more is gained."""

_MOST_WORKERS = 16
"""However many threads there are: each worker has blocks of logits and a sum of dL/dh of its own."""

_BLOCK_MULTIPLE = 64
"""Blocks are multiples of so many token ids: products of odd sizes are slow."""


@final
class VocabularyBlocks:
    """Slices of the vocabulary, the workers among which they are dealt, and where the labels of a chunk's C tokens are
    in logits [models, V', C] of each.

    The first block is taken by all threads, since its maxima serve the others; of these, every worker has as many. Who
    takes what depends on nothing but their number, and sums by worker are the same each time.

    Raises IndexError for a label that is no token id.
    """

    def __init__(self, labels: Tensor, vocabulary: int, rows: int) -> None:
        self.workers = worker_count(vocabulary, rows)
        unit = math.gcd(rows, _BLOCK_MULTIPLE)
        units = -(-vocabulary // unit)
        count = min(units, 1 + self.workers * -(-(vocabulary - rows) // (self.workers * rows)))
        starts = [unit * (units * index // count) for index in range(count)]
        self.slices = [slice(*bounds) for bounds in zip(starts, [*starts[1:], vocabulary], strict=True)]
        self.sizes = [block.stop - block.start for block in self.slices]
        self.rows = max(self.sizes)
        self._share = max(1, -(-(count - 1) // self.workers))
        ordered, self._order = labels.sort()
        counts = torch.searchsorted(ordered, torch.tensor([*starts, vocabulary])).diff()
        if int(counts.sum()) < len(labels):
            raise IndexError(f"labels are {ordered[0]} to {ordered[-1]}; the head has token ids 0 to {vocabulary - 1}")
        rows_in_block = ordered - torch.tensor(starts).repeat_interleave(counts)
        self._entries = torch.split(rows_in_block * len(labels) + self._order, counts.tolist())

    def worker(self, index: int) -> int:
        """Who takes a block."""
        return (index - 1) // self._share if index else 0

    def run(self, work: Callable[[int], object]) -> None:
        """work(index) of all blocks, those of the workers at the same time."""
        work(0)

        def share(worker: int) -> None:
            for index in range(1, len(self.slices))[worker * self._share :][: self._share]:
                work(index)

        run_in_threads(share, self.workers)

    def at_labels(self, index: int, logits: Tensor) -> Tensor:
        """Those of a block's logits [models, V', C] that are at labels, [models, n] in the order that `by_token`
        takes."""
        return logits.view(len(logits), -1).index_select(1, self._entries[index])

    def by_token(self, at_labels: list[Tensor]) -> Tensor:
        """[models, C] from `at_labels` of all blocks in order."""
        values = torch.cat(at_labels, -1)
        return torch.empty_like(values).index_copy_(-1, self._order, values)


def worker_count(vocabulary: int, rows: int) -> int:
    """The workers for blocks of so many token ids: one, unless all threads have two blocks."""
    return max(1, min(torch.get_num_threads(), _MOST_WORKERS, vocabulary // (2 * rows)))


def block_rows(tokens: int, dtype: torch.dtype) -> int:
    """The most token ids of a block for so many tokens, whose hidden states have this dtype."""
    entry = torch.finfo(wide(dtype)).bits // 8
    return max(1, _BLOCK_BYTES // (entry * tokens * _BLOCK_MULTIPLE)) * _BLOCK_MULTIPLE
