"""Buffers for logits that are reused from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.precision import wide


@final
@dataclass(eq=False)
class BufferPool:
    """Free logit buffers, kept between steps: allocating large ones anew costs dear in page faults.

    Buffers are plain tensors also in inference mode, so that training can reuse those of an evaluation. A copy or a
    pickle of a pool starts empty.
    """

    free: list[Tensor] = field(default_factory=list)

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """An uninitialised buffer [rows, columns] in column-major order, in which the head's product is a quarter
        faster on a CPU. The smallest free one that is large enough; otherwise a new one, which replaces the largest
        free one of more than half the size.
        """
        size = rows * columns
        dtype = wide(like.dtype)
        candidates = [flat for flat in self.free if flat.dtype == dtype and flat.device == like.device]
        buffer = min((flat for flat in candidates if flat.numel() >= size), key=Tensor.numel, default=None)
        if buffer is None:
            outgrown = (flat for flat in candidates if size // 2 < flat.numel())
            self._remove(max(outgrown, key=Tensor.numel, default=None))
            buffer = torch.empty(size, dtype=dtype, device=like.device)
        else:
            self._remove(buffer)
        return buffer[:size].view(columns, rows).T

    def _remove(self, buffer: Tensor | None) -> None:
        self.free = [flat for flat in self.free if flat is not buffer]

    @torch.inference_mode(False)
    def give(self, *buffers: Tensor | None) -> None:
        """Return buffers to the pool."""
        for buffer in buffers:
            if buffer is not None:
                flat = torch.empty(0, dtype=buffer.dtype, device=buffer.device)
                self.free.append(flat.set_(buffer.untyped_storage()))
