"""The one place where the vocabulary lives: label log-probabilities and the exact divergence per token, in one pass.

    logp_t = z_t[y_t] - logsumexp(z_t),   logq_t likewise from the reference,   D_t = D(softmax z_t, softmax r_t)

z and r are the logits of the policy and of the reference. The pass walks over chunks of tokens, in one of two ways (see
`passes` and `streaming`); what as many chunks as a stated budget allows have of their logits is kept for backward, the
rest is computed again:

    dL/dz = g_logp (onehot(y) - softmax z) + g_D dD/dz,   dL/dh = dL/dz W,   dL/dW = sum over tokens of dL/dz^T h

The gradients g arrive from ordinary autograd on [N, T] tensors: no objective ever sees the vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefopt.component import Divergence, StreamedDivergence
from prefopt.scoring.lm_head.buffer_pool import Workspace
from prefopt.scoring.lm_head.chunked_pass import Job, Pass, WholePass, over_chunks
from prefopt.scoring.lm_head.chunked_pass import log_collision as whole_collision
from prefopt.scoring.lm_head.head import Head, HeadGradient, wide
from prefopt.scoring.lm_head.online_softmax import StreamedPass

__all__ = [
    "DEFAULT_BUDGET",
    "TokenStatistics",
    "chunk_of",
    "dense_statistics",
    "token_statistics",
    "tokens_within",
]

DEFAULT_BUDGET = 256 * 2**20
"""Bytes of logits that may be kept for backward, unless the caller says otherwise."""

_CHUNK_BYTES = 64 * 2**20
"""Most of a chunk's logits: tokens enough for matrix products at their best."""

_STEP = 32
"""Chunks are multiples of so many tokens: products of odd heights run at two thirds of the speed."""


class TokenStatistics(NamedTuple):
    """Per response token, [M] each, in float32 or wider; None is what was not asked for."""

    logps: Tensor
    ref_logps: Tensor
    divergence: Tensor | None
    log_collision: Tensor | None = None


def chunk_of(width: int) -> int:
    """The most tokens of a chunk, where the logits of a token take `width` bytes."""
    return max(1, _CHUNK_BYTES // (_STEP * width)) * _STEP


def tokens_within(budget: int, weight: Tensor, divergence: Divergence | None) -> int:
    """The tokens whose logits are kept in so many bytes, with a head of weight [V, H]: the policy's, and the
    reference's too where there is a divergence."""
    return budget // (_width(weight) * (1 if divergence is None else 2))


def _width(weight: Tensor) -> int:
    """The bytes of a token's logits."""
    return len(weight) * torch.finfo(wide(weight.dtype)).bits // 8


def _chunks(tokens: int, size: int | None, width: int) -> list[slice]:
    """The tokens in chunks of that size; or in as few as may be, alike in size, so that none is small and slow."""
    if size is None:
        number = -(-tokens // chunk_of(width))
        size = -(-tokens // (number * _STEP)) * _STEP if number > 1 else max(1, tokens)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


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
    into: HeadGradient | None = None,
) -> TokenStatistics:
    """Label log-probabilities of both models and the exact divergence at M tokens.

    Differentiable in `hidden` and the head, once.

    hidden, ref_hidden [M, H] final hidden states at the predicting positions; labels [M] int64. The reference is a
    constant; without one, `ref_logps` are zero. `log_collision` asks for log sum_v p_v^2, without gradient. `budget` is
    in bytes, `chunk_size` in tokens. Where `into` is given, backward adds the head's gradients to it instead of
    returning them. Under autocast the products run in its precision; statistics are float32 or wider in any case.
    """
    if divergence is not None and ref_head is None:
        raise ValueError("a divergence needs a reference")
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, head = hidden.to(dtype), head.to(dtype)
        ref_hidden = None if ref_hidden is None else ref_hidden.to(dtype)
        ref_head = None if ref_head is None else ref_head.to(dtype)
    chunks = _chunks(len(labels), chunk_size, _width(head.weight))
    keep = tokens_within(budget, head.weight, divergence) if torch.is_grad_enabled() else 0
    job = Job(
        head=head,
        ref_hidden=None if ref_hidden is None else ref_hidden.detach(),
        ref_head=ref_head,
        labels=labels,
        divergence=divergence,
        log_collision=log_collision,
        workspace=workspace or Workspace(),
        into=into,
    )
    streams = divergence is None or isinstance(divergence, StreamedDivergence)
    way: Pass[Any] = StreamedPass(job) if streams else WholePass(job)
    with torch.autocast(device, enabled=False):
        kept = sum(1 for part in chunks if part.stop <= keep)
        logps, ref_logps, values, collisions = over_chunks(way, hidden, chunks, kept)
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
    collisions = whole_collision(log_probs.detach()) if log_collision else None
    if ref_logits is None:
        return TokenStatistics(logps, torch.zeros_like(logps), None, collisions)
    ref_log_probs = ref_logits.detach().to(log_probs.dtype).log_softmax(-1)
    ref_logps = ref_log_probs.gather(-1, labels[:, None])[:, 0]
    values = None if divergence is None else divergence(log_probs, ref_log_probs)
    return TokenStatistics(logps, ref_logps, values, collisions)
