"""The kernel for CPUs: a chunk of tokens goes through both heads by online softmax, one cache-sized block of the
vocabulary at a time.

With z [V', C] the logits of a block and a [C] about their maxima, exp(z - a) is all that is stored of them. One
exponential per entry serves the normaliser, the divergence and, times exp(a) / Z, backward. It is taken as a power of
two, since torch's exp2 takes a third of the time of its exp on some CPUs,

    exp(z - a) = 2^(z log2 e - n),   n = ceil(max z log2 e),   a = n / log2 e

where n is whole, so that no rounding of it moves the normaliser, and the maximum is that of the first block. A block
whose powers leave their range is taken again with its own maximum, as exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from torch import Tensor

from prefopt.component import BackwardBlock, StreamedDivergence
from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.chunked_pass import ChunkKernel, ChunkStatistics, HeadInputs
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.precision import LogNormaliser, add_product, wide
from prefopt.scoring.lm_head.tokens_with_gradient import TokensWithGradient
from prefopt.scoring.lm_head.vocabulary_blocks import VocabularyBlocks, block_rows

_LEAST_SUM, _LARGEST_SUM = 0.25, 2.0**32
"""Sums of a block's powers between which neither they nor their squares have lost anything."""


@final
class OnlineSoftmax:
    """Running softmax of one model or of two, whose blocks are side by side so that one pass serves both: shifts a and
    sums of exp(z - a), [blocks, models, C] each, and a buffer for exp(z - a), of the whole vocabulary with `keep`,
    otherwise of one block.

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
        self._heads = list(zip(*(head.split(blocks.rows) for head in heads), strict=True))
        self._at_labels: dict[int, Tensor] = {}
        self._buffer: Tensor | None = None
        self._memory: Sequence[Tensor] = ()
        self._out_of_range: set[int] = set()

    def exps(self, index: int) -> Tensor:
        """The memory of a block's exp(z - a), [models, V', C]."""
        if self._buffer is None:
            models, sizes = len(self.hidden), [block.stop - block.start for block in self.blocks.slices]
            rows = models * (sum(sizes) if self.keep else sizes[0])
            self._buffer = self.buffers.take(len(self.hidden[0]), rows, self.hidden[0]).T
            starts = [models * block.start if self.keep else 0 for block in self.blocks.slices]
            self._memory = [
                self._buffer[start : start + models * size].view(models, size, -1)
                for start, size in zip(starts, sizes, strict=True)
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

    def passes(self) -> Iterator[int]:
        """All blocks in order, then, once their sums are there, those again that lost their range."""
        yield from range(len(self.blocks.slices))
        yield from self.lose_range()

    @property
    def label_logits(self) -> Tensor:
        """z at the labels, [models, C]."""
        return self.blocks.by_token(list(self._at_labels.values()))

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


@final
@dataclass(frozen=True, eq=False)
class _Saved:
    """The softmax of the policy and, with a divergence, of the reference beside it, their log normalisers, and the
    divergence [C]."""

    softmax: OnlineSoftmax
    log_normalisers: list[LogNormaliser]
    divergence: Tensor | None


@final
class OnlineSoftmaxKernel(ChunkKernel[_Saved]):
    """For a StreamedDivergence or none. Logits that are not saved for backward are never materialised at full
    vocabulary size."""

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__(inputs)
        assert inputs.divergence is None or isinstance(inputs.divergence, StreamedDivergence)
        self.divergence: StreamedDivergence | None = inputs.divergence

    def forward(self, hidden: Tensor, chunk: slice, keep_logits: bool) -> tuple[ChunkStatistics, _Saved]:
        """hidden [C, H]."""
        inputs, divergence = self.inputs, self.divergence
        ref_logps = value = collision = None
        heads, states = [inputs.head], [hidden]
        if inputs.ref_head is not None and inputs.ref_hidden is not None:
            if divergence is None:
                ref_logps = self._ref_logps(inputs.ref_head, inputs.ref_hidden[chunk], chunk)
            else:
                heads, states = [inputs.head, inputs.ref_head], [hidden, inputs.ref_hidden[chunk]]
        softmax = self._softmax(heads, states, chunk, keep_logits)
        partial_sums, squares = (torch.zeros_like(softmax.block_sum[:, 0]) for _ in range(2))
        scratch, sum_of_block = self._scratch(softmax), partial_sums.unbind()
        for index in softmax.passes():
            exps = self._block_forward(softmax, index, scratch, sum_of_block[index])
            if inputs.log_collision and scratch is not None:
                torch.sum(torch.square(exps[0], out=scratch[: exps.shape[1]]), 0, out=squares[index])
        log_z, *ref_log_z = log_normalisers = softmax.log_normalisers
        label_logits = softmax.label_logits
        if divergence is not None:
            ref_logps = ref_log_z[0].subtracted_from(label_logits[1])
            scale, ref_scale = softmax.scales(log_normalisers)
            value = divergence.combine(partial_sums, scale, ref_scale, log_z.ratio(ref_log_z[0]))
            value = value.to(partial_sums.dtype)
        if inputs.log_collision:
            collision = (2 * log_z.subtracted_from(softmax.shifts[:, 0]) + squares.log()).logsumexp(0)
        inputs.buffers.give(None if scratch is None else scratch.T)
        if not keep_logits:
            softmax.release()
        logps = log_z.subtracted_from(label_logits[0])
        return ChunkStatistics(logps, ref_logps, value, collision), _Saved(softmax, log_normalisers, value)

    def backward(
        self, hidden: Tensor, chunk: slice, saved: _Saved, g_logps: Tensor, g_divergence: Tensor, total: HeadGradient
    ) -> Tensor:
        """-> [C, H]."""
        head, softmax, tokens = self.inputs.head, saved.softmax, TokensWithGradient(g_logps, g_divergence)
        scale, *ref_scale = map(tokens.select, softmax.scales(saved.log_normalisers))
        log_z, *ref_log_z = saved.log_normalisers
        log_ratio = tokens.select(log_z.ratio(*ref_log_z)).to(scale.dtype) if ref_log_z else None
        labels, value = tokens.select(self.inputs.labels[chunk]), tokens.select(saved.divergence)
        used, g_logps, g_divergence = tokens.select(hidden, 0), tokens.select(g_logps), tokens.select(g_divergence)
        d_label = head.product_gradient(g_logps.clone(), head.slope(tokens.select(softmax.label_logits[0])))
        scratch = None if softmax.keep else self._scratch(softmax)
        d_hidden = head.weight[labels].to(wide(hidden.dtype)) * d_label[:, None]
        for index, block in enumerate(softmax.blocks.slices if len(labels) else ()):
            if not softmax.keep:
                self._block_forward(softmax, index, scratch, torch.empty_like(softmax.block_sum[index, 0]))
            exps, *ref_exps = map(tokens.select, softmax.exps(index).unbind())
            slope = None
            if head.softcap is not None:
                slope = head.slope(exps.log().add_(tokens.select(softmax.shifts[index, 0])))
            if self.divergence is None or log_ratio is None or value is None:
                d_logits = exps.mul_(-g_logps * scale[index])
            else:
                scales = scale[index], ref_scale[0][index]
                d_logits = self.divergence.block_backward(
                    BackwardBlock(exps, ref_exps[0], *scales, log_ratio, value, g_logps, g_divergence)
                )
            d_logits = head.product_gradient(d_logits, slope).T
            d_product = d_logits.to(hidden.dtype)
            add_product(d_hidden, d_product, head.weight[block])
            total.add(block, d_product, used, d_logits)
        if len(labels):
            total.add_labels(labels, d_label, used)
        self.inputs.buffers.give(None if scratch is None else scratch.T)
        softmax.release()
        return tokens.spread(d_hidden.to(hidden.dtype))

    def _softmax(self, heads: Sequence[Head], hidden: Sequence[Tensor], chunk: slice, keep: bool) -> OnlineSoftmax:
        rows = block_rows(hidden[0])
        blocks = VocabularyBlocks(self.inputs.labels[chunk], len(heads[0].weight), rows)
        return OnlineSoftmax(heads, hidden, blocks, self.inputs.buffers, keep=keep)

    def _ref_logps(self, head: Head, hidden: Tensor, chunk: slice) -> Tensor:
        """log q of the labels, [C]; the reference may have a vocabulary of its own."""
        softmax = self._softmax([head], [hidden], chunk, keep=False)
        for index in softmax.passes():
            softmax.exponentiate(index, softmax.logits(index))
        softmax.release()
        return softmax.log_normalisers[0].subtracted_from(softmax.label_logits[0])

    def _block_forward(self, softmax: OnlineSoftmax, index: int, scratch: Tensor | None, partial_sum: Tensor) -> Tensor:
        """-> exponentials of a block, [models, V', C]; the divergence's partial sum, [C], is written."""
        logits = softmax.logits(index)
        if self.divergence is None or scratch is None:
            return softmax.exponentiate(index, logits)
        log_ratio = torch.sub(*logits.unbind(), out=scratch[: logits.shape[1]])
        policy, reference = (exps := softmax.exponentiate(index, logits)).unbind()
        partial_sum.copy_(self.divergence.block_forward(policy, reference, log_ratio))
        return exps

    def _scratch(self, softmax: OnlineSoftmax) -> Tensor | None:
        """A buffer [V', C] for log-ratios or squares; None where neither is needed."""
        if self.divergence is None and not self.inputs.log_collision:
            return None
        hidden, rows = softmax.hidden[0], softmax.blocks.slices[0].stop
        return self.inputs.buffers.take(len(hidden), rows, hidden).T


@cache
def _log2_e(dtype: torch.dtype) -> float:
    """log2 e as a number of this dtype, by which alone z may be multiplied for a = n / log2 e."""
    return float(torch.tensor(math.log2(math.e), dtype=dtype))
