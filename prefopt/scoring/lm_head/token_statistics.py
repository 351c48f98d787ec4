"""Label log-probabilities and exact divergence per token: the one function that sees the vocabulary.

    logp_t = z_t[y_t] - logsumexp(z_t),   logq_t likewise from the reference,   D_t = D(softmax z_t, softmax r_t)

z and r are the logits of policy and reference. A kernel takes them in chunks of tokens (`online_softmax` on a CPU,
`whole_vocabulary` on an accelerator, see `chunked_pass`). Logits are saved for backward while they fit a budget, and
computed again where they do not:

    dL/dz = g_logp (onehot(y) - softmax z) + g_D dD/dz,   dL/dh = dL/dz W,   dL/dW = sum over tokens of dL/dz^T h

The gradients g come from ordinary autograd on [N, T] tensors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefopt.component import ExactDivergence, StreamedDivergence
from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.chunk_sizes import chunks, max_chunk_tokens, max_saved_tokens
from prefopt.scoring.lm_head.chunked_pass import ChunkedPass, ChunkKernel, DenseKernel, HeadInputs
from prefopt.scoring.lm_head.foreseen import Foreseen
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.online_softmax import OnlineSoftmaxKernel
from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.lm_head.whole_vocabulary import WholeVocabularyKernel
from prefopt.signals import log_collision_probability


class TokenStatistics(NamedTuple):
    """Per response token, [M] each, in float32 or wider; None where not asked for."""

    logps: Tensor
    ref_logps: Tensor
    divergence: Tensor | None
    log_collision: Tensor | None = None


def require_one_vocabulary(divergence: ExactDivergence | None, policy: int, reference: int | None) -> None:
    """Raise ValueError where an exact divergence has no reference, or a reference of another number of token ids."""
    if divergence is not None and reference is None:
        raise ValueError("a divergence needs a reference")
    if divergence is not None and policy != reference:
        raise ValueError(
            f"the divergence {divergence.name!r} sums over the vocabulary, but the policy has {policy} token ids and "
            f"the reference {reference}: resize both alike (resize_token_embeddings), or take a sampled divergence"
        )


def token_statistics(
    hidden: Tensor,
    head: Head,
    ref_hidden: Tensor | None,
    ref_head: Head | None,
    labels: Tensor,
    divergence: ExactDivergence | None = None,
    *,
    log_collision: bool = False,
    budget: int | None = None,
    buffers: BufferPool | None = None,
    head_gradient: HeadGradient | None = None,
    foreseen: Foreseen | None = None,
) -> TokenStatistics:
    """Label log-probabilities of both models and the exact divergence at M tokens, once differentiable in `hidden` and
    `head`; the reference is constant.

    hidden, ref_hidden [M, H]  last hidden states at the positions that predict the labels
    labels [M]                 int64
    log_collision              also log sum_v p_v^2, without gradient
    budget                     bytes of logits that are saved for backward; None: `default_budget`
    head_gradient              backward adds the head's gradient here and returns none
    foreseen                   with `head_gradient`: gradients for which backward is taken before they are known, so
                               that no logits are saved

    Without a reference `ref_logps` are zero. Under autocast the products have its precision; the statistics are float32
    or wider in any case. Raises ValueError for a divergence without a reference or between unlike vocabularies.
    """
    require_one_vocabulary(divergence, len(head.weight), None if ref_head is None else len(ref_head.weight))
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, head = hidden.to(dtype), head.map(lambda tensor: tensor.to(dtype))
        ref_hidden = None if ref_hidden is None else ref_hidden.to(dtype)
        ref_head = None if ref_head is None else ref_head.map(lambda tensor: tensor.to(dtype))
    max_saved = max_saved_tokens(budget, head.weight, divergence) if torch.is_grad_enabled() else 0
    inputs = HeadInputs(
        head=head,
        ref_hidden=None if ref_hidden is None else ref_hidden.detach(),
        ref_head=ref_head,
        labels=labels,
        divergence=divergence,
        log_collision=log_collision,
        buffers=buffers or BufferPool(),
        head_gradient=head_gradient,
        foreseen=foreseen,
    )
    kernel: ChunkKernel[Any]
    if divergence is not None and not isinstance(divergence, StreamedDivergence):
        kernel = DenseKernel(inputs)
    else:
        kernel = OnlineSoftmaxKernel(inputs) if device == "cpu" else WholeVocabularyKernel(inputs)
    slices = chunks(len(labels), max_chunk_tokens(budget, head.weight, divergence))
    kept = [(chunk, chunk.stop <= max_saved) for chunk in slices]
    with torch.autocast(device, enabled=False):
        statistics = TokenStatistics(*ChunkedPass.apply(hidden, *head.parameters, kernel, kept))  # type: ignore[no-untyped-call]
    return statistics._replace(
        divergence=None if divergence is None else statistics.divergence,
        log_collision=statistics.log_collision if log_collision else None,
    )


def dense_statistics(
    logits: Tensor,
    ref_logits: Tensor | None,
    labels: Tensor,
    divergence: ExactDivergence | None = None,
    *,
    log_collision: bool = False,
) -> TokenStatistics:
    """`token_statistics` from full logits [M, V], by autograd: for models whose head cannot be applied on its own."""
    log_probs = logits.to(wide(logits.dtype)).log_softmax(-1)
    logps = log_probs.gather(-1, labels[:, None])[:, 0]
    collisions = log_collision_probability(log_probs.detach()) if log_collision else None
    if ref_logits is None:
        return TokenStatistics(logps, torch.zeros_like(logps), None, collisions)
    ref_log_probs = ref_logits.detach().to(log_probs.dtype).log_softmax(-1)
    ref_logps = ref_log_probs.gather(-1, labels[:, None])[:, 0]
    require_one_vocabulary(divergence, logits.shape[-1], ref_logits.shape[-1])
    values = None if divergence is None else divergence(log_probs, ref_log_probs)
    return TokenStatistics(logps, ref_logps, values, collisions)
