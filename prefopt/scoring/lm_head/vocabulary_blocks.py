"""Blocks of the vocabulary that fit a CPU core's cache, and the labels that are in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.lm_head.worker_threads import Workers, handed_out

_BLOCK_BYTES = 2**19
"""A block of one model's logits: those of both models and their differences stay in the cache from product to pass to
product. In smaller blocks, each of which costs some 0.25 ms of Python, nothing more is gained."""

_BLOCK_MULTIPLE = 64
"""Blocks are multiples of so many token ids: products of odd sizes are slow."""


@final
class VocabularyBlocks:
    """Slices of the vocabulary, and the workers among which they are dealt: each takes the next block as soon as it is
    free, since cores are not equally fast."""

    def __init__(self, vocabulary: int, rows: int, workers: Workers) -> None:
        self.workers = workers
        unit = math.gcd(rows, _BLOCK_MULTIPLE)
        units = -(-vocabulary // unit)
        count = min(units, workers.count * -(-vocabulary // (workers.count * rows)))
        self.bounds = [*(unit * (units * index // count) for index in range(count)), vocabulary]
        self.slices = list(map(slice, self.bounds[:-1], self.bounds[1:]))
        self.sizes = [block.stop - block.start for block in self.slices]
        self.rows = max(self.sizes)

    def run(self, work: Callable[[int, int], object]) -> None:
        """work(index, worker) of all blocks, the first one of them first, at the same time by different workers."""
        following = handed_out(len(self.slices))

        def take(worker: int) -> None:
            while (index := following()) is not None:
                work(index, worker)

        self.workers.run(take)


@final
class LabelEntries:
    """Where the labels of C tokens are in the blocks of the vocabulary: by block, row [n] and token [n].

    Raises IndexError for a label that is no token id.
    """

    def __init__(self, labels: Tensor, blocks: VocabularyBlocks) -> None:
        ordered, self._order = labels.sort()
        bounds = torch.tensor(blocks.bounds, device=labels.device)
        self._counts = torch.searchsorted(ordered, bounds).diff().tolist()
        if sum(self._counts) < len(labels):
            raise IndexError(
                f"labels are {ordered[0]} to {ordered[-1]}; the head has token ids 0 to {blocks.bounds[-1] - 1}"
            )
        rows = ordered - bounds[torch.bucketize(ordered, bounds, right=True) - 1]
        self._entries = list(zip(torch.split(rows, self._counts), torch.split(self._order, self._counts), strict=True))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._entries[index]

    def by_block(self, values: Tensor) -> tuple[Tensor, ...]:
        """values [C] in the order of the entries, [n] of every block."""
        return torch.split(values[self._order], self._counts)

    def by_token(self, values: Sequence[Tensor]) -> Tensor:
        """[..., C] from [..., n] of every block."""
        joined = torch.cat(list(values), -1)
        return torch.empty_like(joined).index_copy_(-1, self._order, joined)


def workers_for(vocabulary: int, rows: int) -> Workers:
    """Those for blocks of so many token ids: no more than have two blocks each."""
    return Workers.sharing_threads(vocabulary // (2 * rows))


def block_rows(tokens: int, dtype: torch.dtype) -> int:
    """The most token ids of a block for so many tokens, whose hidden states have this dtype."""
    entry = torch.finfo(wide(dtype)).bits // 8
    return max(1, _BLOCK_BYTES // (entry * tokens * _BLOCK_MULTIPLE)) * _BLOCK_MULTIPLE
