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
from threading import Event
from typing import final

import torch
from torch import Tensor

from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import LogNormaliser, wide
from prefopt.scoring.lm_head.vocabulary_blocks import LabelEntries, VocabularyBlocks

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
        labels: LabelEntries,
        blocks: VocabularyBlocks,
        buffers: BufferPool,
        *,
        keep: bool,
    ) -> None:
        self.hidden, self.labels, self.blocks, self.buffers, self.keep = hidden, labels, blocks, buffers, keep
        sums = (len(blocks.slices), len(heads), len(hidden[0]))
        self.block_sum = hidden[0].new_empty(sums, dtype=wide(hidden[0].dtype))
        self.shifts = torch.empty_like(self.block_sum, dtype=torch.float64)
        self._negative_exponents = torch.empty_like(self.block_sum[0])
        self._sums = self.block_sum.unbind()
        self._heads = list(zip(*(head.split(blocks.sizes) for head in heads), strict=True))
        self._at_labels: dict[int, Tensor] = {}
        self._shift_known = Event()
        self._buffer: Tensor | None = None
        self._memory: Sequence[Tensor] = ()
        self._out_of_range: set[int] = set()

    def run(self, work: Callable[[int, int], object]) -> None:
        """work(index, worker) of all blocks, at the same time by different workers."""
        if self._buffer is None:
            self._take_memory()

        def guarded(index: int, worker: int) -> None:
            try:
                work(index, worker)
            finally:
                self._shift_known.set()  # nobody waits for a first block that failed

        self.blocks.run(guarded)

    def run_forward(self, work: Callable[[int, int], object]) -> None:
        """`run`, then, once all sums are there, the blocks again that lost their range."""
        self.run(work)
        for index in self._lose_range():
            work(index, 0)

    def exps(self, index: int, worker: int) -> Tensor:
        """The memory of a block's exp(z - a), [models, V', C]."""
        return self._memory[index if self.keep else worker][:, : self.blocks.sizes[index]]

    def logits(self, index: int, worker: int) -> Tensor:
        """z of a block, [models, V', C], in the memory of its exponentials."""
        logits = self.exps(index, worker)
        for head, hidden, out in zip(self._heads[index], self.hidden, logits.unbind(), strict=True):
            head.logits(hidden, out=out.T)
        return logits

    def exponentiate(self, index: int, logits: Tensor) -> Tensor:
        """exp(z - a) of a block, [models, V', C], in the place of its logits."""
        rows, tokens = self.labels[index]
        self._at_labels[index] = logits[:, rows, tokens]
        if index in self._out_of_range:
            lowest = torch.finfo(logits.dtype).min  # not -inf, where a block holds nothing else
            maximum = logits.amax(1).clamp_(min=lowest)
            self.shifts[index] = maximum
            exps = logits.sub_(maximum[:, None]).exp_()
        else:
            log2_e = _log2_e(logits.dtype)
            if index == 0 and not self._shift_known.is_set():
                torch.amax(logits, 1, out=self._negative_exponents).mul_(-log2_e).floor_()
                self.shifts[:] = self._negative_exponents.double() / -log2_e
                self._shift_known.set()
            self._shift_known.wait()
            exps = torch.add(self._negative_exponents[:, None], logits, alpha=log2_e, out=logits).exp2_()
        torch.sum(exps, 1, out=self._sums[index])
        return exps

    @property
    def label_logits(self) -> Tensor:
        """z at the labels, [models, C]."""
        return self.labels.by_token([self._at_labels[index] for index in range(len(self.blocks.slices))])

    @property
    def log_normaliser(self) -> LogNormaliser:
        """log Z [models, C], of which divergences depend on small differences."""
        return LogNormaliser.from_blocks(self.shifts, self.block_sum)

    def scales(self, log_normaliser: LogNormaliser) -> Tensor:
        """exp(a) / Z, [blocks, models, C]."""
        return log_normaliser.subtracted_from(self.shifts).exp().to(self.block_sum.dtype)

    def release(self) -> None:
        """Return the buffer to the pool; backward computes its content again."""
        self.buffers.give(None if self._buffer is None else self._buffer.T)
        self._buffer, self._memory, self.keep = None, (), False

    def _lose_range(self) -> list[int]:
        """The blocks whose powers overflow or, in the first block, have lost their maximum, as they do where logits are
        so large that n is rounded, or all -inf: `exponentiate` takes their own maxima from now on."""
        held = self.block_sum.flatten(1).amax(-1) <= _LARGEST_SUM
        held[0] &= self.block_sum[0].amin() >= _LEAST_SUM
        blocks: list[int] = held.logical_not().nonzero()[:, 0].tolist()
        self._out_of_range.update(blocks)
        return blocks

    def _take_memory(self) -> None:
        """A buffer for the exponentials, with `keep` of every block, otherwise of one of every worker."""
        models, tokens, blocks = len(self.hidden), len(self.hidden[0]), self.blocks
        sizes = blocks.sizes if self.keep else [blocks.rows] * blocks.workers.count
        self._buffer = self.buffers.take(tokens, models * sum(sizes), self.hidden[0]).T
        memory = torch.split(self._buffer, [models * size for size in sizes])
        self._memory = [part.view(models, -1, tokens) for part in memory]


@cache
def _log2_e(dtype: torch.dtype) -> float:
    """log2 e as a number of this dtype, by which alone z may be multiplied for a = n / log2 e."""
    return float(torch.tensor(math.log2(math.e), dtype=dtype, device="cpu"))
