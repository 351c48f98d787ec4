"""The running softmax of a chunk of tokens over blocks of the vocabulary, one model's or two models' at once.

With z [V', C] the logits of a block and a [C] about their maxima, exp(z - a) is all that is stored of them. It is taken
as a power of two, since torch's exp2 takes a third of the time of its exp on some CPUs,

    exp(z - a) = 2^(z log2 e - n),   n = ceil(max z log2 e),   a = n / log2 e

where n is whole, so that no rounding of it moves the normaliser, and the maximum is that of the first block. A block
whose powers leave their range is taken again with its own maximum, as exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import LogNormaliser, wide
from prefopt.scoring.lm_head.vocabulary_blocks import VocabularyBlocks

_LEAST_SUM, _LARGEST_SUM = 0.25, 2.0**32
"""Sums of a block's powers between which neither they nor their squares have lost anything."""


@final
class OnlineSoftmax:
    """Running softmax of one model or of two, whose blocks are side by side so that one pass serves both: shifts a and
    sums of exp(z - a), [blocks, models, C] each, and a buffer for exp(z - a), of the whole vocabulary with `keep`,
    otherwise of one block of every worker.

    hidden [C, H] of every model. a is in float64: in float32 n / log2 e would be rounded, and log Z with it. What is
    the same for a block each time is laid out beforehand: a step takes some hundred blocks.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        hidden: Sequence[Tensor],
        blocks: VocabularyBlocks,
        buffers: BufferPool,
        *,
        keep: bool,
    ) -> None:
        self.hidden, self.blocks, self.buffers, self.keep = hidden, blocks, buffers, keep
        sums = (len(blocks.slices), len(heads), len(hidden[0]))
        self.block_sum = hidden[0].new_empty(sums, dtype=wide(hidden[0].dtype))
        self.shifts = torch.empty_like(self.block_sum, dtype=torch.float64)
        self._negative_exponents = torch.empty_like(self.block_sum[0])
        self._sums = self.block_sum.unbind()
        self._heads = list(zip(*(head.split(blocks.slices) for head in heads), strict=True))
        self._at_labels: dict[int, Tensor] = {}
        self._buffer: Tensor | None = None
        self._memory: Sequence[Tensor] = ()
        self._out_of_range: set[int] = set()

    def exps(self, index: int) -> Tensor:
        """The memory of a block's exp(z - a), [models, V', C]."""
        if self._buffer is None:
            blocks, models = self.blocks, len(self.hidden)
            rows = blocks.slices[-1].stop if self.keep else blocks.rows * blocks.workers
            self._buffer = self.buffers.take(len(self.hidden[0]), models * rows, self.hidden[0]).T
            starts = [
                block.start if self.keep else blocks.rows * blocks.worker(index)
                for index, block in enumerate(blocks.slices)
            ]
            self._memory = [
                self._buffer[models * start :][: models * size].view(models, size, -1)
                for start, size in zip(starts, blocks.sizes, strict=True)
            ]
        return self._memory[index]

    def logits(self, index: int) -> Tensor:
        """z of a block, [models, V', C], in the memory of its exponentials."""
        logits = self.exps(index)
        for head, hidden, out in zip(self._heads[index], self.hidden, logits.unbind(), strict=True):
            head.logits(hidden, out=out.T)
        return logits

    def exponentiate(self, index: int, logits: Tensor) -> Tensor:
        """exp(z - a) of a block, [models, V', C], in the place of its logits."""
        self._at_labels[index] = self.blocks.at_labels(index, logits)
        if index in self._out_of_range:
            lowest = torch.finfo(logits.dtype).min  # not -inf, where a block holds nothing else
            maximum = logits.amax(1).clamp_(min=lowest)
            self.shifts[index] = maximum
            exps = logits.sub_(maximum[:, None]).exp_()
        else:
            log2_e = _log2_e(logits.dtype)
            if index == 0:
                torch.amax(logits, 1, out=self._negative_exponents).mul_(-log2_e).floor_()
                self.shifts[:] = self._negative_exponents.double() / -log2_e
            exps = torch.add(self._negative_exponents[:, None], logits, alpha=log2_e, out=logits).exp2_()
        torch.sum(exps, 1, out=self._sums[index])
        return exps

    def lose_range(self) -> list[int]:
        """The blocks whose powers overflow or, in the first block, have lost their maximum, as they do where logits are
        so large that n is rounded, or all -inf: `exponentiate` takes their own maxima from now on."""
        held = self.block_sum.flatten(1).amax(-1) <= _LARGEST_SUM
        held[0] &= self.block_sum[0].amin() >= _LEAST_SUM
        blocks: list[int] = held.logical_not().nonzero()[:, 0].tolist()
        self._out_of_range.update(blocks)
        return blocks

    def run(self, work: Callable[[int], object]) -> None:
        """work(index) of all blocks, then, once their sums are there, of those again that lost their range."""
        self.blocks.run(work)
        for index in self.lose_range():
            work(index)

    @property
    def label_logits(self) -> Tensor:
        """z at the labels, [models, C]."""
        return self.blocks.by_token([self._at_labels[index] for index in range(len(self.blocks.slices))])

    @property
    def log_normalisers(self) -> list[LogNormaliser]:
        """log Z [C] of every model, of which divergences depend on small differences."""
        models = zip(self.shifts.unbind(1), self.block_sum.unbind(1), strict=True)
        return [LogNormaliser.from_blocks(shifts, sums) for shifts, sums in models]

    def scales(self, log_normalisers: Sequence[LogNormaliser]) -> list[Tensor]:
        """exp(a) / Z of every model, [blocks, C]."""
        models = zip(self.shifts.unbind(1), log_normalisers, strict=True)
        return [log_z.subtracted_from(shifts).exp().to(self.block_sum.dtype) for shifts, log_z in models]

    def release(self) -> None:
        """Return the buffer to the pool; backward computes its content again."""
        self.buffers.give(None if self._buffer is None else self._buffer.T)
        self._buffer, self._memory, self.keep = None, (), False


@cache
def _log2_e(dtype: torch.dtype) -> float:
    """log2 e as a number of this dtype, by which alone z may be multiplied for a = n / log2 e."""
    return float(torch.tensor(math.log2(math.e), dtype=dtype))
