"""Buffers for logits that outlive a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.head import wide

__all__ = ["Workspace"]


@final
@dataclass(eq=False)
class Workspace:
    """Logit buffers that outlive a step: allocating big ones anew in every step costs dear in page faults.

    They are plain tensors even in inference mode, so that a training step can take over those of an evaluation. A copy
    or a pickle of a workspace starts empty.
    """

    free: list[Tensor] = field(default_factory=list)

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """A buffer [rows, columns] of any content, whose columns lie in one piece: the product of the head is a quarter
        faster that way round, on a CPU. The smallest that is free and large enough; a new one, perhaps in the place of
        one that was outgrown, where none is.
        """
        size = rows * columns
        dtype = wide(like.dtype)
        alike = [flat for flat in self.free if flat.dtype == dtype and flat.device == like.device]
        fitting = [flat for flat in alike if flat.numel() >= size]
        outgrown = [flat for flat in alike if size // 2 < flat.numel() < size]
        found = min(fitting, key=Tensor.numel, default=None)
        if found is None:
            self._remove(max(outgrown, key=Tensor.numel, default=None))
            found = torch.empty(size, dtype=dtype, device=like.device)
        else:
            self._remove(found)
        return found[:size].view(columns, rows).T

    def _remove(self, buffer: Tensor | None) -> None:
        self.free = [flat for flat in self.free if flat is not buffer]

    @torch.inference_mode(False)
    def give(self, *buffers: Tensor | None) -> None:
        """Put buffers back, to be taken again."""
        for buffer in buffers:
            if buffer is not None:
                flat = torch.empty(0, dtype=buffer.dtype, device=buffer.device)
                self.free.append(flat.set_(buffer.untyped_storage()))
