"""A chunk of tokens through both heads, block by block of the vocabulary, each block while it is in the cache.

With z the logits and a [C] the largest of a block, what is left of it is exp(z - a). One exponential an entry so serves
the normaliser, the divergence and, times exp(a) / Z, backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from prefopt.component import StreamedDivergence
from prefopt.scoring.lm_head.buffer_pool import Workspace
from prefopt.scoring.lm_head.chunked_pass import Job, Pass, Said
from prefopt.scoring.lm_head.head import Head, HeadGradient, wide

__all__ = ["BLOCK_BYTES", "StreamedPass"]

BLOCK_BYTES = 4 * 2**20
"""Of a block of logits on a CPU, so that those of both models and their differences fit its cache."""

_ROWS = 64
"""Blocks are multiples of so many token ids, as products of odd sizes are slow."""


@final
class _Blocks:
    """Parts of the vocabulary, and for each the tokens of the chunk whose labels are in it, and where those stand."""

    def __init__(self, labels: Tensor, vocabulary: int, rows: int) -> None:
        starts = range(0, vocabulary, rows)
        self.parts = [slice(start, min(start + rows, vocabulary)) for start in starts]
        ordered, order = labels.sort()
        bounds = torch.searchsorted(ordered, torch.tensor([*starts, vocabulary], device=labels.device)).tolist()
        self.tokens = [order[one:two] for one, two in pairwise(bounds)]
        self.places = [ordered[one:two] - start for (one, two), start in zip(pairwise(bounds), starts, strict=True)]


@final
class _Side:
    """The weights exp(z - a) of one model, and what is known of them block by block: peaks a and sums [blocks, C], and
    the logits of the labels [C]. Where they are not kept, there is a buffer for one block."""

    def __init__(self, head: Head, hidden: Tensor, blocks: _Blocks, workspace: Workspace, *, keep: bool) -> None:
        self.head, self.hidden, self.blocks = head, hidden, blocks
        self.workspace, self.keep = workspace, keep
        self.peaks = hidden.new_empty(len(blocks.parts), len(hidden), dtype=wide(hidden.dtype))
        self.sums, self.label_logits = torch.empty_like(self.peaks), torch.empty_like(self.peaks[0])
        self._buffer: Tensor | None = None

    def of(self, number: int) -> Tensor:
        """The place of a block's weights, [V', C]."""
        if self._buffer is None:
            rows = self.blocks.parts[-1 if self.keep else 0].stop
            self._buffer = self.workspace.take(len(self.hidden), rows, self.hidden).T
        block = self.blocks.parts[number]
        return self._buffer[block] if self.keep else self._buffer[: block.stop - block.start]

    def logits(self, number: int) -> Tensor:
        """Those of a block, [V', C], in the place of its weights."""
        found = self.of(number)
        self.head.rows(self.blocks.parts[number]).logits(self.hidden, out=found.T)
        return found

    def weigh(self, number: int, logits: Tensor) -> Tensor:
        """The weights of a block, from its logits."""
        tokens = self.blocks.tokens[number]
        if len(tokens):
            self.label_logits[tokens] = logits[self.blocks.places[number], tokens]
        lowest = torch.finfo(logits.dtype).min  # not -inf, where a block holds nothing else
        peak = torch.amax(logits, 0, out=self.peaks[number]).clamp_(min=lowest)
        weights = torch.sub(logits, peak, out=self.of(number)).exp_()
        torch.sum(weights, 0, out=self.sums[number])
        return weights

    @property
    def log_normaliser(self) -> Tensor:
        """log Z, [C], in float64: divergences hang on small differences of it."""
        fine = self.sums.dtype if self.sums.device.type == "mps" else torch.float64  # which has none
        return (self.peaks.to(fine) + self.sums.to(fine).log()).logsumexp(0)

    def scale(self, log_normaliser: Tensor) -> Tensor:
        """exp(a) / Z, [blocks, C]."""
        return (self.peaks - log_normaliser).exp().to(self.peaks.dtype)

    def release(self) -> None:
        """Give the buffer back; what was in it has to be computed again."""
        self.workspace.give(None if self._buffer is None else self._buffer.T)
        self._buffer, self.keep = None, False


@final
@dataclass(frozen=True, eq=False)
class _Left:
    """Both models' sides, and per token [C] the policy's log normaliser, its difference from the reference's, and D."""

    policy: _Side
    reference: _Side | None
    log_normaliser: Tensor
    difference: Tensor
    value: Tensor | None


@final
class StreamedPass(Pass[_Left]):
    """For a divergence that can be streamed, or for none. Logits that are not kept are never whole."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        assert job.divergence is None or isinstance(job.divergence, StreamedDivergence)
        self.divergence: StreamedDivergence | None = job.divergence

    def forward(self, hidden: Tensor, part: slice, keep: bool) -> tuple[Said, _Left]:
        """hidden [C, H]."""
        job, divergence = self.job, self.divergence
        blocks, reference = _Blocks(job.labels[part], len(job.head.weight), self._rows(hidden)), None
        policy = _Side(job.head, hidden, blocks, job.workspace, keep=keep)
        if job.ref_head is not None and job.ref_hidden is not None:
            kept = keep and divergence is not None
            reference = _Side(job.ref_head, job.ref_hidden[part], blocks, job.workspace, keep=kept)
        totals, squares = torch.zeros_like(policy.peaks), torch.zeros_like(policy.peaks)
        scratch = self._scratch(policy)
        for number in range(len(blocks.parts)):
            self._fill(policy, reference, number, scratch, totals)
            if job.log_collision and scratch is not None:
                weights = policy.of(number)
                torch.sum(torch.square(weights, out=scratch[: len(weights)]), 0, out=squares[number])
        log_z, ref_logps, value, difference = policy.log_normaliser, None, None, torch.zeros_like(policy.peaks[0])
        if reference is not None:
            ref_log_z = reference.log_normaliser
            ref_logps, difference = reference.label_logits - ref_log_z, log_z - ref_log_z
            if divergence is not None:
                scales = policy.scale(log_z), reference.scale(ref_log_z)
                value = divergence.streamed(totals, *scales, difference).to(totals.dtype)
        collision = (2 * (policy.peaks - log_z) + squares.log()).logsumexp(0) if job.log_collision else None
        job.workspace.give(None if scratch is None else scratch.T)
        for side in (policy, reference):
            if side is not None and not side.keep:
                side.release()
        left = _Left(policy, reference if divergence is not None else None, log_z, difference, value)
        return Said(policy.label_logits - log_z, ref_logps, value, collision), left

    def backward(
        self, hidden: Tensor, part: slice, left: _Left, g_logps: Tensor, g_value: Tensor, into: HeadGradient
    ) -> Tensor:
        """-> [C, H]."""
        head, labels, policy, reference = self.job.head, self.job.labels[part], left.policy, left.reference
        d_label = head.through(g_logps.clone(), head.slope(policy.label_logits))
        into.add_labels(labels, d_label, hidden)
        scale = policy.scale(left.log_normaliser)
        ref_scale = None if reference is None else reference.scale(left.log_normaliser - left.difference)
        difference = left.difference.to(scale.dtype)
        scratch = None if policy.keep else self._scratch(policy)
        d_hidden = head.weight[labels].to(wide(hidden.dtype)) * d_label[:, None]
        for number, block in enumerate(policy.blocks.parts):
            if not policy.keep:
                self._fill(policy, reference, number, scratch, torch.empty_like(scale))
            weights = policy.of(number)
            slope = None if head.softcap is None else head.slope(weights.log().add_(policy.peaks[number]))
            if self.divergence is None or reference is None or ref_scale is None or left.value is None:
                d_logits = weights.mul_(-g_logps * scale[number])
            else:
                scales = scale[number], ref_scale[number]
                d_logits = self.divergence.unstream(
                    weights, reference.of(number), *scales, difference, left.value, g_logps, g_value
                )
            d_logits = head.through(d_logits, slope).T
            d_product = d_logits.to(hidden.dtype)
            if d_hidden.dtype == d_product.dtype:
                d_hidden.addmm_(d_product, head.weight[block])
            else:
                d_hidden += d_product @ head.weight[block]
            into.add(block, d_product, hidden, d_logits)
        self.job.workspace.give(None if scratch is None else scratch.T)
        for side in (policy, reference):
            if side is not None:
                side.release()
        return d_hidden.to(hidden.dtype)

    def _fill(
        self, policy: _Side, reference: _Side | None, number: int, scratch: Tensor | None, totals: Tensor
    ) -> None:
        """Compute the weights of a block, and what the divergence adds up."""
        if reference is None:
            policy.weigh(number, policy.logits(number))
            return
        both = self._together(policy, reference, number)
        if both is None:
            logits, ref_logits = policy.logits(number), reference.logits(number)
        else:
            logits, ref_logits = both[:, : len(policy.hidden)], both[:, len(policy.hidden) :]
        log_ratio = None
        if self.divergence is not None and scratch is not None:
            log_ratio = torch.sub(logits, ref_logits, out=scratch[: len(logits)])
        weights, ref_weights = policy.weigh(number, logits), reference.weigh(number, ref_logits)
        if self.divergence is not None and log_ratio is not None:
            totals[number] = self.divergence.stream(weights, ref_weights, log_ratio)
        self.job.workspace.give(None if both is None else both.T)

    def _together(self, policy: _Side, reference: _Side, number: int) -> Tensor | None:
        """The logits of a block for both models, [V', 2 C], from one product; None where each has a head of its own."""
        one, other = policy.head, reference.head
        if not one.is_as(other) or policy.hidden.dtype != reference.hidden.dtype:
            return None
        part = policy.blocks.parts[number]
        hidden = torch.cat([policy.hidden, reference.hidden])
        logits = self.job.workspace.take(len(hidden), part.stop - part.start, hidden)
        one.rows(part).logits(hidden, out=logits)
        return logits.T

    def _rows(self, hidden: Tensor) -> int:
        """Of a block. A GPU does best with the vocabulary whole."""
        if hidden.device.type != "cpu":
            return len(self.job.head.weight)
        entry = torch.finfo(wide(hidden.dtype)).bits // 8
        return max(1, BLOCK_BYTES // (entry * len(hidden) * _ROWS)) * _ROWS

    def _scratch(self, policy: _Side) -> Tensor | None:
        """A block for what is computed from the weights, [V', C], where something is."""
        if self.divergence is None and not self.job.log_collision:
            return None
        return self.job.workspace.take(len(policy.hidden), policy.blocks.parts[0].stop, policy.hidden).T
