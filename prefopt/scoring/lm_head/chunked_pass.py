"""The pass over the vocabulary as one function of autograd, and the two ways in which a chunk of tokens takes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prefopt.component import Divergence
from prefopt.scoring.lm_head.buffer_pool import Workspace
from prefopt.scoring.lm_head.head import Head, HeadGradient, wide

__all__ = ["Job", "Pass", "Said", "WholePass", "log_collision", "over_chunks"]

Left = TypeVar("Left")


@final
@dataclass(frozen=True, eq=False)
class Job:
    """What a pass needs besides the tensors that take gradient. `into` as in `token_statistics`."""

    head: Head
    ref_hidden: Tensor | None
    ref_head: Head | None
    labels: Tensor
    divergence: Divergence | None
    log_collision: bool
    workspace: Workspace
    into: HeadGradient | None


class Said(NamedTuple):
    """Per token of a chunk, [C]; ref_logps, value and log_collision None where they were not asked for."""

    logps: Tensor
    ref_logps: Tensor | None
    value: Tensor | None
    log_collision: Tensor | None


class Pass(ABC, Generic[Left]):
    """How a chunk goes through both heads and back. `Left` is what forward leaves for backward."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @abstractmethod
    def forward(self, hidden: Tensor, part: slice, keep: bool) -> tuple[Said, Left]:
        """hidden [C, H]. Whether to keep the logits, or rather to compute them again."""

    @abstractmethod
    def backward(
        self, hidden: Tensor, part: slice, left: Left, g_logps: Tensor, g_value: Tensor, into: HeadGradient
    ) -> Tensor:
        """-> dL/d hidden [C, H]; adds the head's gradients to `into`."""


def over_chunks(
    way: Pass[Any], hidden: Tensor, chunks: Sequence[slice], kept: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logps, ref_logps, divergence, log_collision [M] of hidden [M, H]; the first `kept` chunks keep their logits."""
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _Function.apply(  # type: ignore[no-untyped-call]
        hidden, *way.job.head.parameters, way, chunks, kept
    )
    return found


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        way: Pass[Any],
        chunks: Sequence[slice],
        kept: int,
    ) -> tuple[Tensor, ...]:
        found = [hidden.new_zeros(len(hidden), dtype=wide(hidden.dtype)) for _ in Said._fields]
        ctx.way, ctx.chunks = way, []
        for number, part in enumerate(chunks):
            said, left = way.forward(hidden[part], part, number < kept)
            for total, values in zip(found, said, strict=True):
                if values is not None:
                    total[part] = values
            ctx.chunks.append((part, left))
        ctx.save_for_backward(hidden)
        _, ref_logps, _, collisions = found
        ctx.mark_non_differentiable(ref_logps, collisions)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_logps: Tensor, _: Tensor, g_values: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
        way: Pass[Any] = ctx.way
        (hidden,) = ctx.saved_tensors
        _, weight, bias, *_ = ctx.needs_input_grad
        own = HeadGradient.of(way.job.head, weight=weight, bias=bias)
        into = own if way.job.into is None else way.job.into
        d_hidden = torch.empty_like(hidden)
        for part, left in ctx.chunks:
            d_hidden[part] = way.backward(hidden[part], part, left, g_logps[part], g_values[part], into)
        return (d_hidden, *own.in_precision_of(way.job.head), None, None, None)


@final
@dataclass(eq=False)
class _Whole:
    """The policy's normaliser [C, 1], the divergence [C], and both log-probabilities [C, V] where they are kept, until
    they are spent."""

    normaliser: Tensor
    value: Tensor
    log_probs: tuple[Tensor, Tensor] | None


@final
class WholePass(Pass[_Whole]):
    """For divergences that are functions of two whole distributions: log-probabilities over the vocabulary, then
    `Divergence.__call__` and `Divergence.backward`."""

    def forward(self, hidden: Tensor, part: slice, keep: bool) -> tuple[Said, _Whole]:
        """hidden [C, H]."""
        job = self.job
        assert job.divergence is not None
        labels = job.labels[part, None]
        log_probs, ref_log_probs, normaliser = self._both(hidden, part)
        value = job.divergence(log_probs, ref_log_probs)
        said = Said(
            log_probs.gather(-1, labels)[:, 0],
            ref_log_probs.gather(-1, labels)[:, 0],
            value,
            log_collision(log_probs) if job.log_collision else None,
        )
        if not keep:
            job.workspace.give(log_probs, ref_log_probs)
        return said, _Whole(normaliser, value, (log_probs, ref_log_probs) if keep else None)

    def backward(
        self, hidden: Tensor, part: slice, left: _Whole, g_logps: Tensor, g_value: Tensor, into: HeadGradient
    ) -> Tensor:
        """-> [C, H]."""
        job = self.job
        assert job.divergence is not None
        log_probs, ref_log_probs = left.log_probs or self._both(hidden, part)[:2]
        left.log_probs = None
        slope = None if job.head.softcap is None else job.head.slope(log_probs + left.normaliser)
        g_label = g_logps[:, None]
        d_logits = job.divergence.backward(log_probs, ref_log_probs, left.value, g_label, g_value[:, None])
        d_logits = job.head.through(d_logits.scatter_add_(-1, job.labels[part, None], g_label), slope)
        d_product = d_logits.to(hidden.dtype)
        into.add(slice(None), d_product, hidden, d_logits)
        d_hidden = d_product @ job.head.weight
        job.workspace.give(log_probs, ref_log_probs)
        return d_hidden

    def _both(self, hidden: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        job = self.job
        assert job.ref_head is not None
        assert job.ref_hidden is not None
        log_probs, normaliser = self._log_probs(job.head, hidden)
        ref_log_probs, _ = self._log_probs(job.ref_head, job.ref_hidden[part])
        return log_probs, ref_log_probs, normaliser

    def _log_probs(self, head: Head, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [C, H] -> log-probabilities [C, V] in a buffer of the workspace, and their normaliser [C, 1]."""
        logits = head.logits(hidden, out=self.job.workspace.take(len(hidden), len(head.weight), hidden))
        normaliser = logits.logsumexp(-1, keepdim=True)
        return logits.sub_(normaliser), normaliser


def log_collision(log_probs: Tensor) -> Tensor:
    """log sum_v p_v^2, [..., V] -> [...]."""
    return (2 * log_probs).logsumexp(-1)
