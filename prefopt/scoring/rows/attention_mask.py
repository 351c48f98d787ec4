"""The attention mask of rows that the two responses of a pair, or several pairs, share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

PROMPT, CHOSEN, REJECTED, SEGMENTS = 0, 1, 2, 3
"""Segment 3 i + PROMPT is the prompt of pair i, 3 i + CHOSEN and 3 i + REJECTED are its responses."""

Mask: TypeAlias = Tensor | BlockMask


@final
@dataclass(frozen=True, eq=False)
class Prefix:
    """Segments that keep the pairs of a row, and the two responses of a pair, apart.

    segments [R, S]      the segment of each position; padding is the prompt of pair B, which does not exist
    position_ids [R, S]  counted along [prompt | response] for both responses: those of the rejected one continue from
                         the prompt
    """

    segments: Tensor
    position_ids: Tensor

    def mask(self, implementation: str | None, dtype: torch.dtype) -> Mask:
        """The causal mask in which a position attends to its segment and to the prompt of its pair, in the form that
        the attention implementation takes for states of this dtype.

        Padding attends to itself: a row of attention over nothing would be NaN.
        """
        return _block_mask(self) if implementation == "flex_attention" else _dense_mask(self, dtype)


def _dense_mask(prefix: Prefix, dtype: torch.dtype) -> Tensor:
    """An additive mask [R, 1, S, S]."""
    queries, keys = prefix.segments[:, None, :, None], prefix.segments[:, None, None, :]
    steps = torch.arange(prefix.segments.shape[1], device=prefix.segments.device)
    hidden = (keys != queries).logical_and_(keys != queries - queries % SEGMENTS).logical_or_(steps[:, None] < steps)
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)


def _block_mask(prefix: Prefix) -> BlockMask:
    """A mask [R, 1, S, S] that leaves out blocks in which no position attends to another."""
    segments = prefix.segments
    prompts = segments - segments % SEGMENTS

    def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        segment = segments[row, key]
        return (key <= query) & ((segment == segments[row, query]) | (segment == prompts[row, query]))

    rows, width = segments.shape
    return create_block_mask(attends, rows, None, width, width, device=segments.device)
