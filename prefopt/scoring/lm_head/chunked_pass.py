"""One autograd function from hidden states to token statistics, chunk by chunk, and the kernel for whole
distributions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prefopt.component import ExactDivergence
from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.foreseen import Ahead, Foreseen
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.precision import wide
from prefopt.signals import log_collision_probability

Saved = TypeVar("Saved")


@final
@dataclass(frozen=True, eq=False)
class HeadInputs:
    """The inputs of a pass over the vocabulary that take no gradient, for M tokens.

    ref_hidden [M, H], labels [M]. `head` takes gradient; where `head_gradient` is given, backward adds it there. With
    `foreseen` gradients, backward through the head is taken chunk by chunk in forward.
    """

    head: Head
    ref_hidden: Tensor | None
    ref_head: Head | None
    labels: Tensor
    divergence: ExactDivergence | None
    log_collision: bool
    buffers: BufferPool
    head_gradient: HeadGradient | None
    foreseen: Foreseen | None


class ChunkStatistics(NamedTuple):
    """Statistics of a chunk, [C] each; None where not asked for."""

    logps: Tensor
    ref_logps: Tensor | None
    divergence: Tensor | None
    log_collision: Tensor | None


class ChunkKernel(ABC, Generic[Saved]):
    """Forward and backward of a chunk of C tokens through both heads. `Saved` is what backward needs of forward."""

    def __init__(self, inputs: HeadInputs) -> None:
        self.inputs = inputs

    @abstractmethod
    def forward(self, hidden: Tensor, chunk: slice, keep_logits: bool) -> tuple[ChunkStatistics, Saved]:
        """hidden [C, H]. Without `keep_logits`, backward computes them again."""

    @abstractmethod
    def backward(
        self, hidden: Tensor, chunk: slice, saved: Saved, g_logps: Tensor, g_divergence: Tensor, total: HeadGradient
    ) -> Tensor:
        """dL/dhidden [C, H] from dL/dlogps and dL/ddivergence [C]; adds the head's gradient to `total`."""


class ChunkedPass(torch.autograd.Function):
    """logps, ref_logps, divergence and log_collision [M] from hidden [M, H], the head's weight and bias, a kernel, and
    the chunks with whether they keep their logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
        """-> statistics, zero where not asked for."""
        kernel, chunks = args
        inputs: HeadInputs = kernel.inputs
        ctx.kernel, ctx.chunks, ctx.ahead = kernel, [], None
        if inputs.foreseen is not None and inputs.head_gradient is not None:
            ctx.ahead = Ahead.begin(inputs.foreseen, hidden, inputs.head_gradient)
        totals = [hidden.new_zeros(len(hidden), dtype=wide(hidden.dtype)) for _ in ChunkStatistics._fields]
        for chunk, keep_logits in chunks:
            statistics, saved = kernel.forward(hidden[chunk], chunk, keep_logits or ctx.ahead is not None)
            if (ahead := ctx.ahead) is not None:
                upstream = ahead.foreseen.d_logps[chunk], ahead.foreseen.d_divergence[chunk]
                ahead.d_hidden[chunk] = kernel.backward(hidden[chunk], chunk, saved, *upstream, ahead.gradient)
            for total, values in zip(totals, statistics, strict=True):
                if values is not None:
                    total[chunk] = values
            ctx.chunks.append((chunk, saved))
        ctx.save_for_backward(hidden)
        ctx.mark_non_differentiable(totals[1], totals[3])  # ref_logps, log_collision
        return tuple(totals)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_logps: Tensor, _: Tensor, g_divergence: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, weight and bias."""
        kernel: ChunkKernel[Any] = ctx.kernel
        inputs = kernel.inputs
        (hidden,) = ctx.saved_tensors
        _, weight, bias, *_ = ctx.needs_input_grad
        gradient = HeadGradient.blank(inputs.head, weight=weight, bias=bias)
        total = gradient if inputs.head_gradient is None else inputs.head_gradient
        if ctx.ahead is not None and (ready := ctx.ahead.taken(g_logps, g_divergence, total)) is not None:
            return (ready, *gradient.in_precision_of(inputs.head), None, None)
        d_hidden = torch.empty_like(hidden)
        for chunk, saved in ctx.chunks:
            d_hidden[chunk] = kernel.backward(hidden[chunk], chunk, saved, g_logps[chunk], g_divergence[chunk], total)
        return (d_hidden, *gradient.in_precision_of(inputs.head), None, None)


@final
@dataclass(eq=False)
class _DenseSaved:
    """The policy's log normaliser [C, 1], the divergence [C], and, until backward overwrites them, log-probabilities
    [C, V] of both models where kept."""

    log_normaliser: Tensor
    divergence: Tensor
    log_probs: tuple[Tensor, Tensor] | None


@final
class DenseKernel(ChunkKernel[_DenseSaved]):
    """For divergences of two whole distributions: log-probabilities [C, V] of both models, then
    `ExactDivergence.__call__` and `ExactDivergence.logit_gradient`."""

    def forward(self, hidden: Tensor, chunk: slice, keep_logits: bool) -> tuple[ChunkStatistics, _DenseSaved]:
        """hidden [C, H]."""
        inputs, labels = self.inputs, self.inputs.labels[chunk, None]
        assert inputs.divergence is not None
        log_probs, ref_log_probs, log_normaliser = self._log_probs_of_both(hidden, chunk)
        divergence = inputs.divergence(log_probs, ref_log_probs)
        logps, ref_logps = (values.gather(-1, labels)[:, 0] for values in (log_probs, ref_log_probs))
        collision = log_collision_probability(log_probs) if inputs.log_collision else None
        if not keep_logits:
            inputs.buffers.give(log_probs, ref_log_probs)
        kept = (log_probs, ref_log_probs) if keep_logits else None
        return ChunkStatistics(logps, ref_logps, divergence, collision), _DenseSaved(log_normaliser, divergence, kept)

    def backward(
        self,
        hidden: Tensor,
        chunk: slice,
        saved: _DenseSaved,
        g_logps: Tensor,
        g_divergence: Tensor,
        total: HeadGradient,
    ) -> Tensor:
        """-> [C, H]."""
        inputs, head = self.inputs, self.inputs.head
        assert inputs.divergence is not None
        log_probs, ref_log_probs = saved.log_probs or self._log_probs_of_both(hidden, chunk)[:2]
        saved.log_probs = None
        slope = None if head.softcap is None else head.slope(log_probs + saved.log_normaliser)
        g_label = g_logps[:, None]
        d_divergence = inputs.divergence.logit_gradient(log_probs, ref_log_probs, saved.divergence)
        d_logits = log_probs.exp_().mul_(-g_label).addcmul_(d_divergence, g_divergence[:, None])
        d_logits = head.product_gradient(d_logits.scatter_add_(-1, inputs.labels[chunk, None], g_label), slope)
        d_product = d_logits.to(hidden.dtype)
        total.add(slice(None), d_product, hidden, d_logits)
        total.end_chunk()
        d_hidden = d_product @ head.weight
        inputs.buffers.give(log_probs, ref_log_probs)
        return d_hidden

    def _log_probs_of_both(self, hidden: Tensor, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [C, V] of policy and reference, and the policy's log normaliser [C, 1]."""
        inputs = self.inputs
        assert inputs.ref_head is not None
        assert inputs.ref_hidden is not None
        log_probs, log_normaliser = self._log_probs(inputs.head, hidden)
        return log_probs, self._log_probs(inputs.ref_head, inputs.ref_hidden[chunk])[0], log_normaliser

    def _log_probs(self, head: Head, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits = head.logits(hidden, out=self.inputs.buffers.take(len(hidden), len(head.weight), hidden))
        log_normaliser = logits.logsumexp(-1, keepdim=True)
        return logits.sub_(log_normaliser), log_normaliser
