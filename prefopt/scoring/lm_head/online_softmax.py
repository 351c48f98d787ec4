"""The kernel for CPUs: a chunk of tokens goes through both heads by online softmax, one cache-sized block of the
vocabulary at a time, blocks dealt out to threads.

One exponential per entry serves the normaliser, the divergence and, times exp(a) / Z, backward (`running_softmax`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from prefopt.component import BackwardBlock, StreamedDivergence
from prefopt.scoring.lm_head.chunked_pass import ChunkKernel, ChunkStatistics, HeadInputs
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.precision import multiply, wide
from prefopt.scoring.lm_head.running_softmax import OnlineSoftmax
from prefopt.scoring.lm_head.tokens_with_gradient import TokensWithGradient
from prefopt.scoring.lm_head.vocabulary_blocks import LabelEntries, VocabularyBlocks, block_rows, workers_for
from prefopt.scoring.lm_head.worker_threads import OrderedSum, Workers


@final
@dataclass(frozen=True, eq=False)
class _Saved:
    """The softmax of the policy and, with a divergence, of the reference beside it, exp(a) / Z [blocks, models, C],
    log Z - log R and the divergence, [C]."""

    softmax: OnlineSoftmax
    scales: Tensor
    log_ratio: Tensor | None
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
        rows = block_rows(len(hidden), hidden.dtype)
        workers = workers_for(len(self.inputs.head.weight), rows)
        with workers.beside():
            return self._forward(hidden, chunk, keep_logits, rows, workers)

    def backward(
        self, hidden: Tensor, chunk: slice, saved: _Saved, g_logps: Tensor, g_divergence: Tensor, total: HeadGradient
    ) -> Tensor:
        """-> [C, H]."""
        with saved.softmax.blocks.workers.beside():
            return self._backward(hidden, chunk, saved, g_logps, g_divergence, total)

    def _forward(
        self, hidden: Tensor, chunk: slice, keep_logits: bool, rows: int, workers: Workers
    ) -> tuple[ChunkStatistics, _Saved]:
        inputs, divergence = self.inputs, self.divergence
        ref_logps = value = collision = None
        heads, states = [inputs.head], [hidden]
        if inputs.ref_head is not None and inputs.ref_hidden is not None:
            if divergence is None:
                ref_logps = self._ref_logps(inputs.ref_head, inputs.ref_hidden[chunk], chunk, rows, workers)
            else:
                heads, states = [inputs.head, inputs.ref_head], [hidden, inputs.ref_hidden[chunk]]
        blocks = VocabularyBlocks(len(inputs.head.weight), rows, workers)
        labels = LabelEntries(inputs.labels[chunk], blocks)
        softmax = OnlineSoftmax(heads, states, labels, blocks, inputs.buffers, keep=keep_logits)
        partial_sums, squares = (torch.zeros_like(softmax.block_sum[:, 0]) for _ in range(2))
        scratch, sum_of_block = self._scratch(softmax), partial_sums.unbind()

        def block_forward(index: int, worker: int) -> None:
            exps = self._block_forward(softmax, index, worker, scratch, sum_of_block[index])
            if inputs.log_collision and scratch is not None:
                torch.sum(torch.square(exps[0], out=scratch[worker, : exps.shape[1]]), 0, out=squares[index])

        softmax.run_forward(block_forward)
        log_z, *ref_log_z = (log_normaliser := softmax.log_normaliser).unbind()
        logps, *ref_logps_of_labels = log_normaliser.subtracted_from(softmax.label_logits)
        scales, log_ratio = softmax.scales(log_normaliser), None
        if divergence is not None:
            (ref_logps,), log_ratio = ref_logps_of_labels, log_z.ratio(*ref_log_z)
            value = divergence.combine(partial_sums, scales[:, 0], scales[:, 1], log_ratio).to(partial_sums.dtype)
            log_ratio = log_ratio.to(partial_sums.dtype)
        if inputs.log_collision:
            collision = (2 * log_z.subtracted_from(softmax.shifts[:, 0]) + squares.log()).logsumexp(0)
        inputs.buffers.give(scratch)
        if not keep_logits:
            softmax.release()
        return ChunkStatistics(logps, ref_logps, value, collision), _Saved(softmax, scales, log_ratio, value)

    def _backward(
        self, hidden: Tensor, chunk: slice, saved: _Saved, g_logps: Tensor, g_divergence: Tensor, total: HeadGradient
    ) -> Tensor:
        head, softmax, tokens = self.inputs.head, saved.softmax, TokensWithGradient(g_logps, g_divergence)
        scales, log_ratio = tokens.select(saved.scales), tokens.select(saved.log_ratio)
        used, value = tokens.select(hidden, 0), tokens.select(saved.divergence)
        g_logps, g_divergence = tokens.select(g_logps), tokens.select(g_divergence)
        labels = LabelEntries(tokens.select(self.inputs.labels[chunk]), softmax.blocks)
        label_slope = head.slope(tokens.select(softmax.label_logits[0]))
        d_labels = labels.by_block(head.product_gradient(g_logps.clone(), label_slope))
        scratch = None if softmax.keep else self._scratch(softmax)
        d_hidden = OrderedSum(torch.zeros_like(used, dtype=wide(hidden.dtype)))

        def block_backward(index: int, worker: int) -> None:
            block = softmax.blocks.slices[index]
            if not softmax.keep:
                self._block_forward(softmax, index, worker, scratch, torch.empty_like(softmax.block_sum[index, 0]))
            exps, *ref_exps = map(tokens.select, softmax.exps(index, worker).unbind())
            scale, *ref_scale = scales[index]
            slope = None
            if head.softcap is not None:
                slope = head.slope(exps.log().add_(tokens.select(softmax.shifts[index, 0])))
            if self.divergence is None or log_ratio is None or value is None:
                d_logits = exps.mul_(-g_logps * scale)
            else:
                d_logits = self.divergence.block_backward(
                    BackwardBlock(exps, ref_exps[0], scale, ref_scale[0], log_ratio, value, g_logps, g_divergence)
                )
            d_logits = head.product_gradient(d_logits, slope)
            # Before p - 1 is rounded to the products' precision: where p is near 1, its parts do not cancel after.
            d_logits = d_logits.index_put_(labels[index], d_labels[index], accumulate=True).T
            d_product = d_logits.to(hidden.dtype)
            d_hidden.add(index, multiply(torch.empty_like(d_hidden.total), d_product, head.weight[block]))
            total.add(block, d_product, used, d_logits)

        if len(used):
            softmax.run(block_backward)
            total.end_chunk()
        self.inputs.buffers.give(scratch)
        softmax.release()
        return tokens.spread(d_hidden.total.to(hidden.dtype))

    def _ref_logps(self, head: Head, hidden: Tensor, chunk: slice, rows: int, workers: Workers) -> Tensor:
        """log q of the labels, [C]; the reference may have a vocabulary of its own."""
        blocks = VocabularyBlocks(len(head.weight), rows, workers)
        labels = LabelEntries(self.inputs.labels[chunk], blocks)
        softmax = OnlineSoftmax([head], [hidden], labels, blocks, self.inputs.buffers, keep=False)
        softmax.run_forward(lambda index, worker: softmax.exponentiate(index, softmax.logits(index, worker)))
        softmax.release()
        return softmax.log_normaliser.subtracted_from(softmax.label_logits)[0]

    def _block_forward(
        self, softmax: OnlineSoftmax, index: int, worker: int, scratch: Tensor | None, partial_sum: Tensor
    ) -> Tensor:
        """-> exponentials of a block, [models, V', C]; the divergence's partial sum, [C], is written."""
        logits = softmax.logits(index, worker)
        if self.divergence is None or scratch is None:
            return softmax.exponentiate(index, logits)
        log_ratio = torch.sub(*logits.unbind(), out=scratch[worker, : logits.shape[1]])
        policy, reference = (exps := softmax.exponentiate(index, logits)).unbind()
        partial_sum.copy_(self.divergence.block_forward(policy, reference, log_ratio))
        return exps

    def _scratch(self, softmax: OnlineSoftmax) -> Tensor | None:
        """A buffer [workers, V', C] for log-ratios or squares; None where neither is needed."""
        if self.divergence is None and not self.inputs.log_collision:
            return None
        hidden, blocks = softmax.hidden[0], softmax.blocks
        memory = self.inputs.buffers.take(len(hidden), blocks.workers.count * blocks.rows, hidden)
        return memory.T.view(blocks.workers.count, blocks.rows, len(hidden))
