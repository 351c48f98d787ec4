"""The one place where the vocabulary lives: label log-probabilities and the exact divergence per token, in one pass.

    logp_t = z_t[y_t] - logsumexp(z_t),   logq_t likewise from the reference,   D_t = D(softmax z_t, softmax r_t)

z and r are the logits of the policy and of the reference. The pass walks over chunks of tokens, so that only a chunk's
logits exist at a time; those of as many chunks as a stated budget allows are kept for backward, the rest are computed
again:

    dL/dz = g_logp (onehot(y) - softmax z) + g_D dD/dz,   dL/dh = dL/dz W,   dL/dW = sum over tokens of dL/dz^T h

The gradients g arrive from ordinary autograd on [N, T] tensors: no objective ever sees the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prefopt.component import Divergence
from prefopt.scoring.head import Head, wide

__all__ = ["DEFAULT_BUDGET", "TokenStatistics", "Workspace", "chunk_of", "dense_statistics", "token_statistics"]

DEFAULT_BUDGET = 256 * 2**20
"""Bytes of logits that may be kept for backward, unless the caller says otherwise."""

_CHUNK_BYTES = 32 * 2**20
"""Most of a chunk's logits: large enough for the matrix product, small enough for the allocator to reuse its pages."""

_STEP = 64
"""Chunks are multiples of so many tokens: products of odd heights run at two thirds of the speed."""


class TokenStatistics(NamedTuple):
    """Per response token, [M] each, in float32 or wider; None is what was not asked for."""

    logps: Tensor
    ref_logps: Tensor
    divergence: Tensor | None
    log_collision: Tensor | None = None


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
        faster that way round, on a CPU.
        """
        size = rows * columns
        dtype = wide(like.dtype)
        for index, flat in enumerate(self.free):
            if flat.numel() >= size and flat.dtype == dtype and flat.device == like.device:
                return self.free.pop(index)[:size].view(columns, rows).T
        return torch.empty(size, dtype=dtype, device=like.device).view(columns, rows).T

    @torch.inference_mode(False)
    def give(self, *buffers: Tensor | None) -> None:
        """Put buffers back, to be taken again."""
        for buffer in buffers:
            if buffer is not None:
                flat = torch.empty(0, dtype=buffer.dtype, device=buffer.device)
                self.free.append(flat.set_(buffer.untyped_storage()))


def chunk_of(width: int) -> int:
    """The tokens of a chunk, where the logits of a token take `width` bytes."""
    return max(1, _CHUNK_BYTES // (_STEP * width)) * _STEP


def token_statistics(
    hidden: Tensor,
    head: Head,
    ref_hidden: Tensor | None,
    ref_head: Head | None,
    labels: Tensor,
    divergence: Divergence | None = None,
    *,
    log_collision: bool = False,
    budget: int = DEFAULT_BUDGET,
    chunk_size: int | None = None,
    workspace: Workspace | None = None,
) -> TokenStatistics:
    """Label log-probabilities of both models and the exact divergence at M tokens.

    Differentiable in `hidden` and the head, once.

    hidden, ref_hidden [M, H] final hidden states at the predicting positions; labels [M] int64. The reference is a
    constant; without one, `ref_logps` are zero. `log_collision` asks for log sum_v p_v^2, without gradient. `budget` is
    in bytes, `chunk_size` in tokens. Under autocast the products run in its precision; statistics are float32 or wider
    in any case.
    """
    if divergence is not None and ref_head is None:
        raise ValueError("a divergence needs a reference")
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, head = hidden.to(dtype), head.to(dtype)
        ref_hidden = None if ref_hidden is None else ref_hidden.to(dtype)
        ref_head = None if ref_head is None else ref_head.to(dtype)
    width = head.weight.shape[0] * torch.finfo(wide(hidden.dtype)).bits // 8
    chunk = chunk_size or chunk_of(width)
    models = 1 if ref_head is None or divergence is None else 2
    job = _Job(
        head=head,
        ref_hidden=None if ref_hidden is None else ref_hidden.detach(),
        ref_head=ref_head,
        labels=labels,
        divergence=divergence,
        log_collision=log_collision,
        chunks=[slice(start, min(start + chunk, len(labels))) for start in range(0, len(labels), chunk)],
        keep=int(budget // (models * chunk * width)) if torch.is_grad_enabled() else 0,
        workspace=workspace or Workspace(),
    )
    with torch.autocast(device, enabled=False):
        logps, ref_logps, values, collisions = _Function.apply(hidden, head.weight, head.bias, job)  # type: ignore[no-untyped-call]
    return TokenStatistics(
        logps, ref_logps, values if divergence is not None else None, collisions if log_collision else None
    )


def dense_statistics(
    logits: Tensor,
    ref_logits: Tensor | None,
    labels: Tensor,
    divergence: Divergence | None = None,
    *,
    log_collision: bool = False,
) -> TokenStatistics:
    """The same from whole logits [M, V], by ordinary autograd: for models whose head cannot be applied on its own."""
    log_probs = logits.to(wide(logits.dtype)).log_softmax(-1)
    logps = log_probs.gather(-1, labels[:, None])[:, 0]
    collisions = _log_collision(log_probs.detach()) if log_collision else None
    if ref_logits is None:
        return TokenStatistics(logps, torch.zeros_like(logps), None, collisions)
    ref_log_probs = ref_logits.detach().to(log_probs.dtype).log_softmax(-1)
    ref_logps = ref_log_probs.gather(-1, labels[:, None])[:, 0]
    values = None if divergence is None else divergence(log_probs, ref_log_probs)
    return TokenStatistics(logps, ref_logps, values, collisions)


def _log_collision(log_probs: Tensor) -> Tensor:
    """log sum_v p_v^2, [..., V] -> [...]."""
    return (2 * log_probs).logsumexp(-1)


@dataclass(frozen=True, eq=False)
class _Job:
    """What the pass needs besides the tensors that take gradient."""

    head: Head
    ref_hidden: Tensor | None
    ref_head: Head | None
    labels: Tensor
    divergence: Divergence | None
    log_collision: bool
    chunks: list[slice]
    keep: int
    workspace: Workspace

    def log_probs(self, head: Head, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [C, H] -> log-probabilities [C, V] in a buffer of the workspace, and their normaliser [C, 1]."""
        logits = head.logits(hidden, out=self.workspace.take(len(hidden), head.weight.shape[0], hidden))
        normaliser = logits.logsumexp(-1, keepdim=True)
        return logits.sub_(normaliser), normaliser


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logps = hidden.new_zeros(len(hidden), dtype=wide(hidden.dtype))
        ref_logps, values, normalisers, collisions = (torch.zeros_like(logps) for _ in range(4))
        kept: dict[int, tuple[Tensor, Tensor | None]] = {}
        for index, part in enumerate(job.chunks):
            labels = job.labels[part, None]
            log_probs, normaliser = job.log_probs(job.head, hidden[part])
            logps[part], normalisers[part] = log_probs.gather(-1, labels)[:, 0], normaliser[:, 0]
            if job.log_collision:
                collisions[part] = _log_collision(log_probs)
            ref_log_probs = None
            if job.ref_head is not None and job.ref_hidden is not None:
                ref_log_probs, _ = job.log_probs(job.ref_head, job.ref_hidden[part])
                ref_logps[part] = ref_log_probs.gather(-1, labels)[:, 0]
                if job.divergence is not None:
                    values[part] = job.divergence(log_probs, ref_log_probs)
                else:
                    job.workspace.give(ref_log_probs)
                    ref_log_probs = None
            if index < job.keep:
                kept[index] = (log_probs, ref_log_probs)
            else:
                job.workspace.give(log_probs, ref_log_probs)
        ctx.job, ctx.kept, ctx.has_bias = job, kept, bias is not None
        ctx.save_for_backward(hidden, values, normalisers)
        ctx.mark_non_differentiable(ref_logps, collisions)
        return logps, ref_logps, values, collisions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_logps: Tensor, _: Tensor, g_values: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
        job: _Job = ctx.job
        hidden, values, normalisers = ctx.saved_tensors
        head = job.head
        wants_weight, wants_bias = ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(head.weight, dtype=g_logps.dtype) if wants_weight else None
        d_bias = g_logps.new_zeros(len(head.weight)) if wants_bias else None
        for index, part in enumerate(job.chunks):
            log_probs, ref_log_probs = ctx.kept.pop(index, (None, None))
            if log_probs is None:
                log_probs, _ = job.log_probs(head, hidden[part])
                if job.divergence is not None and job.ref_head is not None and job.ref_hidden is not None:
                    ref_log_probs, _ = job.log_probs(job.ref_head, job.ref_hidden[part])
            d_logits = _logit_gradient(job, part, log_probs, ref_log_probs, g_logps[part], g_values[part], values[part])
            d_logits = head.through(d_logits, log_probs, normalisers[part, None])
            d_product = d_logits.to(hidden.dtype)
            d_hidden[part] = d_product @ head.weight
            if d_weight is not None:
                _add_product(d_weight, d_product.T, hidden[part])
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            job.workspace.give(log_probs, ref_log_probs)
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(head.weight.dtype),
            None if d_bias is None or head.bias is None else d_bias.to(head.bias.dtype),
            None,
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in the precision of `total` whatever that of the product."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _logit_gradient(
    job: _Job,
    part: slice,
    log_probs: Tensor,
    ref_log_probs: Tensor | None,
    g_logps: Tensor,
    g_values: Tensor,
    values: Tensor,
) -> Tensor:
    """dL/dz of a chunk, [C, V]: g_logp (onehot(y) - p) + g_D dD/dz. Both log-probabilities are spent, but for the
    policy's where there is a softcap, whose slope has yet to be read off them.
    """
    if job.head.softcap is not None:
        log_probs = log_probs.clone()
    g_label = g_logps[:, None]
    if job.divergence is not None and ref_log_probs is not None:
        gradient = job.divergence.backward(log_probs, ref_log_probs, values, g_label, g_values[:, None])
    else:
        gradient = log_probs.exp_().mul_(-g_label)
    return gradient.scatter_add_(-1, job.labels[part, None], g_label)
