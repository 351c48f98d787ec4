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
    """Running softmax of one model: shifts a and sums of exp(z - a), [blocks, C] each, label_logits [C], and a buffer
    for exp(z - a), of the whole vocabulary with `keep`, otherwise of one block.

    a is in float64: in float32 n / log2 e would be rounded, and log Z with it. What is the same for a block each time
    is laid out beforehand: a step takes some hundred blocks.
    """

    def __init__(
        self, head: Head, hidden: Tensor, blocks: VocabularyBlocks, buffers: BufferPool, *, keep: bool
    ) -> None:
        self.hidden, self.blocks, self.buffers, self.keep = hidden, blocks, buffers, keep
        self.block_sum = hidden.new_empty(len(blocks.slices), len(hidden), dtype=wide(hidden.dtype))
        self.shifts = torch.empty_like(self.block_sum, dtype=torch.float64)
        self._negative_exponents = torch.empty_like(self.block_sum[0])
        self._heads, self._sums = head.split(blocks.rows), self.block_sum.unbind()
        self._at_labels = list(self._sums)  # of every block, replaced when its logits are there
        self._buffer: Tensor | None = None
        self._memory: Sequence[Tensor] = ()
        self._out_of_range: set[int] = set()

    def exps(self, index: int) -> Tensor:
        """The memory of a block's exp(z - a), [V', C]."""
        if self._buffer is None:
            rows, slices = self.blocks.rows, self.blocks.slices
            self._buffer = self.buffers.take(len(self.hidden), slices[-1 if self.keep else 0].stop, self.hidden).T
            whole = torch.split(self._buffer, rows) if self.keep else [self._buffer] * len(slices)
            self._memory = [memory[: block.stop - block.start] for memory, block in zip(whole, slices, strict=True)]
        return self._memory[index]

    def logits(self, index: int) -> Tensor:
        """z of a block, [V', C], in the memory of its exponentials."""
        logits = self.exps(index)
        self._heads[index].logits(self.hidden, out=logits.T)
        return logits

    def exponentiate(self, index: int, logits: Tensor) -> Tensor:
        """exp(z - a) of a block, [V', C], in the place of its logits."""
        self._at_labels[index] = self.blocks.at_labels(index, logits)
        if index in self._out_of_range:
            lowest = torch.finfo(logits.dtype).min  # not -inf, where a block holds nothing else
            maximum = logits.amax(0).clamp_(min=lowest)
            self.shifts[index] = maximum
            exps = logits.sub_(maximum).exp_()
        else:
            log2_e = _log2_e(logits.dtype)
            if index == 0:
                torch.amax(logits, 0, out=self._negative_exponents).mul_(-log2_e).floor_()
                self.shifts[:] = self._negative_exponents.double() / -log2_e
            exps = torch.add(self._negative_exponents, logits, alpha=log2_e, out=logits).exp2_()
        torch.sum(exps, 0, out=self._sums[index])
        return exps

    def lose_range(self) -> list[int]:
        """The blocks whose powers overflow or, in the first block, have lost their maximum, as they do where logits are
        so large that n is rounded, or all -inf: `exponentiate` takes their own maxima from now on."""
        held = self.block_sum.amax(-1) <= _LARGEST_SUM
        held[0] &= self.block_sum[0].amin() >= _LEAST_SUM
        blocks: list[int] = held.logical_not().nonzero()[:, 0].tolist()
        self._out_of_range.update(blocks)
        return blocks

    @property
    def label_logits(self) -> Tensor:
        """z at the labels, [C]."""
        return self.blocks.by_token(self._at_labels)

    @property
    def log_normaliser(self) -> LogNormaliser:
        """log Z [C], of which divergences depend on small differences."""
        return LogNormaliser.from_blocks(self.shifts, self.block_sum)

    def scale(self, log_normaliser: LogNormaliser) -> Tensor:
        """exp(a) / Z, [blocks, C]."""
        return log_normaliser.subtracted_from(self.shifts).exp().to(self.block_sum.dtype)

    def release(self) -> None:
        """Return the buffer to the pool; backward computes its content again."""
        self.buffers.give(None if self._buffer is None else self._buffer.T)
        self._buffer, self._memory, self.keep = None, (), False


@final
@dataclass(frozen=True, eq=False)
class _Saved:
    """Both models' softmax, their log Z and log R, and the divergence [C]; the reference's with a divergence."""

    policy: OnlineSoftmax
    log_normaliser: LogNormaliser
    reference: OnlineSoftmax | None
    ref_log_normaliser: LogNormaliser | None
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
        blocks = VocabularyBlocks(inputs.labels[chunk], len(inputs.head.weight), block_rows(hidden))
        policy = OnlineSoftmax(inputs.head, hidden, blocks, inputs.buffers, keep=keep_logits)
        reference = alike = None  # `alike`: the reference, where its blocks of the vocabulary are the policy's
        if inputs.ref_head is not None and inputs.ref_hidden is not None:
            keep = keep_logits and divergence is not None
            ref_hidden, vocabulary = inputs.ref_hidden[chunk], len(inputs.ref_head.weight)
            if vocabulary != len(inputs.head.weight):
                blocks = VocabularyBlocks(inputs.labels[chunk], vocabulary, block_rows(hidden))
            reference = OnlineSoftmax(inputs.ref_head, ref_hidden, blocks, inputs.buffers, keep=keep)
            alike = reference if blocks is policy.blocks else None
        partial_sums, squares = torch.zeros_like(policy.block_sum), torch.zeros_like(policy.block_sum)
        scratch, rows_of_sums = self._scratch(policy), partial_sums.unbind()
        for index in _and_out_of_range(policy, alike):
            self._block_forward(policy, alike, index, scratch, rows_of_sums[index])
            if inputs.log_collision and scratch is not None:
                exps = policy.exps(index)
                torch.sum(torch.square(exps, out=scratch[: len(exps)]), 0, out=squares[index])
        if reference is not None and alike is None:
            for index in _and_out_of_range(reference, None):
                reference.exponentiate(index, reference.logits(index))
        log_z, ref_log_z, ref_logps, value, collision = policy.log_normaliser, None, None, None, None
        if reference is not None:
            ref_log_z = reference.log_normaliser
            ref_logps = ref_log_z.subtracted_from(reference.label_logits)
            if divergence is not None:
                scales = policy.scale(log_z), reference.scale(ref_log_z)
                value = divergence.combine(partial_sums, *scales, log_z.ratio(ref_log_z)).to(partial_sums.dtype)
        if inputs.log_collision:
            collision = (2 * log_z.subtracted_from(policy.shifts) + squares.log()).logsumexp(0)
        inputs.buffers.give(None if scratch is None else scratch.T)
        for softmax in (policy, reference):
            if softmax is not None and not softmax.keep:
                softmax.release()
        of_reference = (None, None) if divergence is None else (reference, ref_log_z)
        saved = _Saved(policy, log_z, *of_reference, value)
        return ChunkStatistics(log_z.subtracted_from(policy.label_logits), ref_logps, value, collision), saved

    def backward(
        self, hidden: Tensor, chunk: slice, saved: _Saved, g_logps: Tensor, g_divergence: Tensor, total: HeadGradient
    ) -> Tensor:
        """-> [C, H]."""
        head, policy, reference = self.inputs.head, saved.policy, saved.reference
        tokens = TokensWithGradient(g_logps, g_divergence)
        scale, label_logits = tokens.select(policy.scale(saved.log_normaliser)), tokens.select(policy.label_logits)
        ref_scale, log_ratio = None, torch.zeros_like(scale[0])
        if reference is not None and saved.ref_log_normaliser is not None:
            ref_scale = tokens.select(reference.scale(saved.ref_log_normaliser))
            log_ratio = tokens.select(saved.log_normaliser.ratio(saved.ref_log_normaliser)).to(scale.dtype)
        labels, value = tokens.select(self.inputs.labels[chunk]), tokens.select(saved.divergence)
        used, g_logps, g_divergence = tokens.select(hidden, 0), tokens.select(g_logps), tokens.select(g_divergence)
        d_label = head.product_gradient(g_logps.clone(), head.slope(label_logits))
        scratch = None if policy.keep else self._scratch(policy)
        d_hidden = head.weight[labels].to(wide(hidden.dtype)) * d_label[:, None]
        for index, block in enumerate(policy.blocks.slices if len(labels) else ()):
            if not policy.keep:
                self._block_forward(policy, reference, index, scratch, torch.empty_like(policy.block_sum[0]))
            exps = tokens.select(policy.exps(index))
            slope = None
            if head.softcap is not None:
                slope = head.slope(exps.log().add_(tokens.select(policy.shifts[index])))
            if self.divergence is None or reference is None or ref_scale is None or value is None:
                d_logits = exps.mul_(-g_logps * scale[index])
            else:
                ref_exps, scales = tokens.select(reference.exps(index)), (scale[index], ref_scale[index])
                d_logits = self.divergence.block_backward(
                    BackwardBlock(exps, ref_exps, *scales, log_ratio, value, g_logps, g_divergence)
                )
            d_logits = head.product_gradient(d_logits, slope).T
            d_product = d_logits.to(hidden.dtype)
            add_product(d_hidden, d_product, head.weight[block])
            total.add(block, d_product, used, d_logits)
        if len(labels):
            total.add_labels(labels, d_label, used)
        self.inputs.buffers.give(None if scratch is None else scratch.T)
        for softmax in (policy, reference):
            if softmax is not None:
                softmax.release()
        return tokens.spread(d_hidden.to(hidden.dtype))

    def _block_forward(
        self,
        policy: OnlineSoftmax,
        reference: OnlineSoftmax | None,
        index: int,
        scratch: Tensor | None,
        partial_sum: Tensor,
    ) -> None:
        """Exponentials of a block for both models, and the divergence's partial sum, [C]."""
        logits = policy.logits(index)
        if reference is None:
            policy.exponentiate(index, logits)
            return
        ref_logits, log_ratio = reference.logits(index), None
        if self.divergence is not None and scratch is not None:
            log_ratio = torch.sub(logits, ref_logits, out=scratch[: len(logits)])
        exps, ref_exps = policy.exponentiate(index, logits), reference.exponentiate(index, ref_logits)
        if self.divergence is not None and log_ratio is not None:
            partial_sum.copy_(self.divergence.block_forward(exps, ref_exps, log_ratio))

    def _scratch(self, policy: OnlineSoftmax) -> Tensor | None:
        """A buffer [V', C] for log-ratios or squares; None where neither is needed."""
        if self.divergence is None and not self.inputs.log_collision:
            return None
        return self.inputs.buffers.take(len(policy.hidden), policy.blocks.slices[0].stop, policy.hidden).T


def _and_out_of_range(policy: OnlineSoftmax, reference: OnlineSoftmax | None) -> Iterator[int]:
    """All blocks, then those again in which a model's powers left their range."""
    yield from range(len(policy.blocks.slices))
    yield from sorted({*policy.lose_range(), *(() if reference is None else reference.lose_range())})


@cache
def _log2_e(dtype: torch.dtype) -> float:
    """log2 e as a number of this dtype, by which alone z may be multiplied for a = n / log2 e."""
    return float(torch.tensor(math.log2(math.e), dtype=dtype))
