"""Blocks of the vocabulary that fit a CPU's cache, and the labels that are in them."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.precision import wide

BLOCK_BYTES = 4 * 2**20
"""Size of a block of logits: those of both models and their differences fit its cache."""

_BLOCK_MULTIPLE = 64
"""Blocks are multiples of so many token ids: products of odd sizes are slow."""


@final
class VocabularyBlocks:
    """Slices of the vocabulary, and for each the tokens of the chunk whose label is in it, with the label's row.

    Raises IndexError for a label that is no token id.
    """

    def __init__(self, labels: Tensor, vocabulary: int, rows: int) -> None:
        starts = range(0, vocabulary, rows)
        self.slices = [slice(start, min(start + rows, vocabulary)) for start in starts]
        ordered, order = labels.sort()
        bounds = torch.searchsorted(ordered, torch.tensor([*starts, vocabulary])).tolist()
        if bounds[-1] - bounds[0] < len(labels):
            raise IndexError(f"labels are {ordered[0]} to {ordered[-1]}; the head has token ids 0 to {vocabulary - 1}")
        self.tokens = [order[one:two] for one, two in pairwise(bounds)]
        self.rows = [ordered[one:two] - start for (one, two), start in zip(pairwise(bounds), starts, strict=True)]


def block_rows(hidden: Tensor) -> int:
    """V', the token ids of a block for hidden [C, H]."""
    entry = torch.finfo(wide(hidden.dtype)).bits // 8
    return max(1, BLOCK_BYTES // (entry * len(hidden) * _BLOCK_MULTIPLE)) * _BLOCK_MULTIPLE
