"""The kernel for CPUs: a chunk of tokens goes through both heads by online softmax, one cache-sized block of the
vocabulary at a time, blocks dealt out to threads.

One exponential per entry serves the normaliser, the divergence and, times exp(a) / Z, backward (`running_softmax`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from prefopt.component import BackwardBlock, StreamedDivergence
from prefopt.scoring.lm_head.chunked_pass import ChunkKernel, ChunkStatistics, HeadInputs
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.precision import LogNormaliser, add_product, wide
from prefopt.scoring.lm_head.running_softmax import OnlineSoftmax
from prefopt.scoring.lm_head.tokens_with_gradient import TokensWithGradient
from prefopt.scoring.lm_head.vocabulary_blocks import VocabularyBlocks, block_rows


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

        def block_forward(index: int) -> None:
            exps = self._block_forward(softmax, index, scratch, sum_of_block[index])
            if inputs.log_collision and scratch is not None:
                memory = scratch[softmax.blocks.worker(index), : exps.shape[1]]
                torch.sum(torch.square(exps[0], out=memory), 0, out=squares[index])

        softmax.run(block_forward)
        log_z, *ref_log_z = log_normalisers = softmax.log_normalisers
        label_logits = softmax.label_logits
        if divergence is not None:
            ref_logps = ref_log_z[0].subtracted_from(label_logits[1])
            scale, ref_scale = softmax.scales(log_normalisers)
            value = divergence.combine(partial_sums, scale, ref_scale, log_z.ratio(ref_log_z[0]))
            value = value.to(partial_sums.dtype)
        if inputs.log_collision:
            collision = (2 * log_z.subtracted_from(softmax.shifts[:, 0]) + squares.log()).logsumexp(0)
        inputs.buffers.give(scratch)
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
        d_hidden = head.weight.new_zeros((softmax.blocks.workers, *used.shape), dtype=wide(hidden.dtype))
        d_hidden_of = d_hidden.unbind()

        def block_backward(index: int) -> None:
            block, sum_of_worker = softmax.blocks.slices[index], d_hidden_of[softmax.blocks.worker(index)]
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
            add_product(sum_of_worker, d_product, head.weight[block])
            total.add(block, d_product, used, d_logits)

        if len(labels):
            softmax.blocks.run(block_backward)
            total.end_chunk()
            total.add_labels(labels, d_label, used)
            d_hidden[0] += head.weight[labels] * d_label[:, None]
        self.inputs.buffers.give(scratch)
        softmax.release()
        return tokens.spread(d_hidden.sum(0).to(hidden.dtype))

    def _softmax(self, heads: Sequence[Head], hidden: Sequence[Tensor], chunk: slice, keep: bool) -> OnlineSoftmax:
        rows = block_rows(len(hidden[0]), hidden[0].dtype)
        blocks = VocabularyBlocks(self.inputs.labels[chunk], len(heads[0].weight), rows)
        return OnlineSoftmax(heads, hidden, blocks, self.inputs.buffers, keep=keep)

    def _ref_logps(self, head: Head, hidden: Tensor, chunk: slice) -> Tensor:
        """log q of the labels, [C]; the reference may have a vocabulary of its own."""
        softmax = self._softmax([head], [hidden], chunk, keep=False)
        softmax.run(lambda index: softmax.exponentiate(index, softmax.logits(index)))
        softmax.release()
        return softmax.log_normalisers[0].subtracted_from(softmax.label_logits[0])

    def _block_forward(self, softmax: OnlineSoftmax, index: int, scratch: Tensor | None, partial_sum: Tensor) -> Tensor:
        """-> exponentials of a block, [models, V', C]; the divergence's partial sum, [C], is written."""
        logits = softmax.logits(index)
        if self.divergence is None or scratch is None:
            return softmax.exponentiate(index, logits)
        log_ratio = torch.sub(*logits.unbind(), out=scratch[softmax.blocks.worker(index), : logits.shape[1]])
        policy, reference = (exps := softmax.exponentiate(index, logits)).unbind()
        partial_sum.copy_(self.divergence.block_forward(policy, reference, log_ratio))
        return exps

    def _scratch(self, softmax: OnlineSoftmax) -> Tensor | None:
        """A buffer [workers, V', C] for log-ratios or squares; None where neither is needed."""
        if self.divergence is None and not self.inputs.log_collision:
            return None
        hidden, blocks = softmax.hidden[0], softmax.blocks
        memory = self.inputs.buffers.take(len(hidden), blocks.workers * blocks.rows, hidden)
        return memory.T.view(blocks.workers, blocks.rows, len(hidden))
