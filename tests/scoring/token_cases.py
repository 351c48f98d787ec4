"""Hidden states, heads and labels to try token_statistics on, and the same by dense autograd."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Literal
from unittest.mock import patch

import torch

from prefopt.component import ExactDivergence
from prefopt.divergences import AlphaDivergence, ForwardKL, JensenShannon, ReverseKL
from prefopt.scoring import Head, token_statistics

TOKENS, HIDDEN, VOCABULARY = 11, 8, 17
ENTRY_BYTES = 8 * VOCABULARY
"""What one token's logits take in float64."""


class SquaredDistance(ExactDivergence):
    """sum_v (p_v - q_v)^2: what a plugin without a closed-form gradient brings."""

    name: Literal["squared_distance"] = "squared_distance"

    def __call__(self, logps, ref_logps):
        return (logps.exp() - ref_logps.exp()).square().sum(-1)


BUILT_IN = (ForwardKL(), ReverseKL(), JensenShannon(), AlphaDivergence(a=0.5), AlphaDivergence(a=0.2))
DIVERGENCES = (*BUILT_IN, SquaredDistance())
HEADS = (
    {},
    {"bias": True},
    {"scale": 0.4},
    {"softcap": 2.0},
    {"bias": True, "scale": 1.7, "softcap": 2.0},
)


def name_of(value):
    if isinstance(value, ExactDivergence):
        return f"{value.name}-{value.a}" if isinstance(value, AlphaDivergence) else value.name
    return "-".join(value) or "plain" if isinstance(value, dict) else str(value)


def setting(*, bias=False, scale=1.0, softcap=None, spread=1.0, dtype=torch.float64, seed=0):
    """Leaves that take gradient, the reference's leaves, labels, and gradients that arrive from an objective."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape, spread=1.0):
        return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    hidden, ref_hidden = leaf(TOKENS, HIDDEN), leaf(TOKENS, HIDDEN)
    heads = [
        Head(leaf(VOCABULARY, HIDDEN, spread=spread), leaf(VOCABULARY) if bias else None, scale, softcap)
        for _ in range(2)
    ]
    labels = torch.randint(1, VOCABULARY, (TOKENS,), generator=generator)
    upstream = torch.randn(2, TOKENS, generator=generator, dtype=torch.float64)
    return SimpleNamespace(
        hidden=hidden, head=heads[0], ref_hidden=ref_hidden, ref_head=heads[1], labels=labels, upstream=upstream
    )


def dense_logits(hidden, head):
    logits = hidden @ head.weight.T
    logits = logits if head.bias is None else logits + head.bias
    logits = head.scale * logits
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def dense(at, divergence):
    log_probs = dense_logits(at.hidden, at.head).log_softmax(-1)
    ref_log_probs = dense_logits(at.ref_hidden, at.ref_head).detach().log_softmax(-1)
    tokens = torch.arange(TOKENS)
    values = None if divergence is None else divergence(log_probs, ref_log_probs)
    return log_probs[tokens, at.labels], ref_log_probs[tokens, at.labels], values


def chunks_of(size):
    """A context in which token_statistics takes chunks of so many tokens; its own with None."""

    def slices(tokens, most):
        return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]

    return patch("prefopt.scoring.lm_head.token_statistics.chunks", slices) if size else nullcontext()


def fused(at, divergence, *, chunk_size=None, **options):
    with chunks_of(chunk_size):
        return token_statistics(at.hidden, at.head, at.ref_hidden, at.ref_head, at.labels, divergence, **options)


def loss_of(at, actual, terms=("logps", "divergence")):
    loss = 0
    if "logps" in terms:
        loss = loss + (at.upstream[0] * actual[0]).sum()
    if actual[2] is not None and "divergence" in terms:
        loss = loss + (at.upstream[1] * actual[2]).sum()
    return loss


def gradients(at, loss, **options):
    leaves = [at.hidden, at.head.weight, *([] if at.head.bias is None else [at.head.bias])]
    return torch.autograd.grad(loss, leaves, **options)


def assert_same(actual, expected, rtol=1e-9, atol=1e-12):
    """The statistics, or gradients, that `expected` has."""
    for ours, theirs in zip(actual[: len(expected)], expected, strict=True):
        if theirs is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, check_dtype=False)
