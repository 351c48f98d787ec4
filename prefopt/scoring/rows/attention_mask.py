"""What the positions of a row see of each other, where the responses of a pair, or several pairs, share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, final

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

__all__ = ["CHOSEN", "PROMPT", "REJECTED", "SEGMENTS", "Mask", "Prefix"]

PROMPT, CHOSEN, REJECTED, SEGMENTS = 0, 1, 2, 3
"""Segment 3 i + PROMPT is the prompt of pair i, 3 i + CHOSEN and 3 i + REJECTED are its responses."""

Mask: TypeAlias = Tensor | BlockMask


@final
@dataclass(frozen=True, eq=False)
class Prefix:
    """What keeps the pairs of a row, and the two responses of a pair, apart.

    segments [R, S]      what each position belongs to; padding is the prompt of a pair that there is not
    position_ids [R, S]  counted along [prompt | response] for every response, so that the rejected one's go on from
                         the prompt
    """

    segments: Tensor
    position_ids: Tensor

    def mask(self, implementation: str | None, dtype: torch.dtype) -> Mask:
        """What says to attention of this implementation, and to states of this dtype, what each position sees.

        It sees its own segment and the prompt of its pair, up to itself. So does padding: a row of attention that saw
        nothing would be NaN.
        """
        return _MASKS.get(implementation, _dense)(self, dtype)


def _dense(prefix: Prefix, dtype: torch.dtype) -> Tensor:
    """[R, 1, S, S] what is added to attention scores."""
    queries, keys = prefix.segments[:, None, :, None], prefix.segments[:, None, None, :]
    steps = torch.arange(prefix.segments.shape[1], device=prefix.segments.device)
    hidden = (keys != queries).logical_and_(keys != queries - queries % SEGMENTS).logical_or_(steps[:, None] < steps)
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)


def _blocks(prefix: Prefix, dtype: torch.dtype) -> BlockMask:
    """[R, 1, S, S] in blocks, so that those in which nothing is seen are left out."""
    segments = prefix.segments
    prompts = segments - segments % SEGMENTS

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, prompt, other = segments[row, query], prompts[row, query], segments[row, key]
        return (key <= query) & ((other == own) | (other == prompt))

    rows, width = segments.shape
    return create_block_mask(sees, rows, None, width, width, device=segments.device)


_MASKS: Mapping[str | None, Callable[[Prefix, torch.dtype], Mask]] = MappingProxyType({"flex_attention": _blocks})
"""By transformers' name for the implementation; all others are given a dense mask, or fail at start-up."""
