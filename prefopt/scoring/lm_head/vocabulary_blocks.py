"""Blocks of the vocabulary that fit a CPU's cache, and the labels that are in them."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.precision import wide

_THREAD_BYTES = 2**20
"""A thread's share of a block of logits: those of both models and their differences stay in the cache from product to
pass to product. In smaller blocks, each of which costs some 0.25 ms of Python, nothing more is gained."""

_MOST_BYTES = 8 * 2**20
"""However many threads there are: no block is a whole chunk, whose logits would all be there at once."""

_BLOCK_MULTIPLE = 64
"""Blocks are multiples of so many token ids: products of odd sizes are slow."""


@final
class VocabularyBlocks:
    """Slices of the vocabulary, and where the labels of a chunk's C tokens are in logits [models, V', C] of each.

    Raises IndexError for a label that is no token id.
    """

    def __init__(self, labels: Tensor, vocabulary: int, rows: int) -> None:
        starts = range(0, vocabulary, rows)
        self.rows = rows
        self.slices = [slice(start, min(start + rows, vocabulary)) for start in starts]
        ordered, self._order = labels.sort()
        bounds = torch.searchsorted(ordered, torch.tensor([*starts, vocabulary]))
        counts = bounds.diff().tolist()
        if sum(counts) < len(labels):
            raise IndexError(f"labels are {ordered[0]} to {ordered[-1]}; the head has token ids 0 to {vocabulary - 1}")
        self._entries = torch.split(ordered % rows * len(labels) + self._order, counts)

    def at_labels(self, index: int, logits: Tensor) -> Tensor:
        """Those of a block's logits [models, V', C] that are at labels, [models, n] in the order that `by_token`
        takes."""
        return logits.view(len(logits), -1).index_select(1, self._entries[index])

    def by_token(self, at_labels: list[Tensor]) -> Tensor:
        """[models, C] from `at_labels` of all blocks in order."""
        values = torch.cat(at_labels, -1)
        return torch.empty_like(values).index_copy_(-1, self._order, values)


def block_bytes() -> int:
    """The size of a block of logits."""
    return min(_THREAD_BYTES * torch.get_num_threads(), _MOST_BYTES)


def block_rows(hidden: Tensor) -> int:
    """V', the token ids of a block for hidden [C, H]."""
    entry = torch.finfo(wide(hidden.dtype)).bits // 8
    return max(1, block_bytes() // (entry * len(hidden) * _BLOCK_MULTIPLE)) * _BLOCK_MULTIPLE
