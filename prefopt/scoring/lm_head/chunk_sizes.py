"""How many tokens go through the head at once, from the bytes that their logits take.

A chunk reads the head's weights for the logits of both models and for dL/dh, and adds to its gradient. With e bytes a
weight, C tokens and float32 gradients the head's products have

    8 C H V operations,   (3 e + 8) H V bytes of the head

On a CPU both sides of that are slow, and a chunk is what is fast to multiply. An accelerator does hundreds of
operations in the time in which it reads a byte: chunks are as large as a share of its memory allows, up to where the
head is read in an eighth of the products' time (`docs/roofline.md`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from prefopt.component import ExactDivergence
from prefopt.scoring.lm_head.precision import wide

CPU_BUDGET = 192 * 2**20
"""Bytes of logits that are saved for backward on a CPU by default, and on a device that does not tell its memory."""

ACCELERATOR_TOKENS = 4096
"""Tokens whose logits, of both models, are saved for backward on an accelerator by default."""

ACCELERATOR_SHARE = 1 / 16
"""The most of an accelerator's memory that these take."""

_CHUNK_BYTES = 64 * 2**20
"""A chunk's logits: the most on a CPU, enough tokens for fast products; the least on an accelerator."""

_CHUNK_MULTIPLE = 32
"""Chunks are multiples of so many tokens: products of odd heights run at two thirds of the speed."""


def logit_bytes(weight: Tensor) -> int:
    """The bytes of one token's logits under a head of weight [V, H]."""
    return len(weight) * torch.finfo(wide(weight.dtype)).bits // 8


def default_budget(weight: Tensor) -> int:
    """Bytes of logits that are saved for backward, where none are said, for a head of weight [V, H] where it lies."""
    memory = accelerator_memory(weight.device)
    if memory is None:
        return CPU_BUDGET
    return accelerator_budget(logit_bytes(weight), memory)


def accelerator_budget(token_bytes: int, memory: int) -> int:
    """`default_budget` of an accelerator of so many bytes, where the logits of a token take `token_bytes`."""
    return min(2 * ACCELERATOR_TOKENS * token_bytes, int(memory * ACCELERATOR_SHARE))


def max_saved_tokens(budget: int | None, weight: Tensor, divergence: ExactDivergence | None) -> int:
    """The tokens whose logits fit a budget in bytes, None: `default_budget`, with a head of weight [V, H]: those of
    the policy and, with a divergence, of the reference."""
    budget = default_budget(weight) if budget is None else budget
    return budget // (logit_bytes(weight) * (1 if divergence is None else 2))


def max_chunk_tokens(budget: int | None, weight: Tensor, divergence: ExactDivergence | None) -> int:
    """The tokens of a chunk: on an accelerator, all whose logits are saved."""
    tokens = _CHUNK_BYTES // logit_bytes(weight)
    if weight.device.type != "cpu":
        tokens = max(tokens, max_saved_tokens(budget, weight, divergence))
    return max(1, tokens // _CHUNK_MULTIPLE) * _CHUNK_MULTIPLE


def chunks(tokens: int, most: int) -> list[slice]:
    """The fewest chunks of at most `most` tokens, of nearly equal size, so that none is small and slow."""
    number = -(-tokens // most)
    size = -(-tokens // (number * _CHUNK_MULTIPLE)) * _CHUNK_MULTIPLE if number > 1 else max(1, tokens)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def accelerator_memory(device: torch.device) -> int | None:
    """The bytes of an accelerator, all in all: what is free of them would change from run to run, and the chunks with
    it."""
    if device.type in ("cuda", "xpu"):
        return int(torch.get_device_module(device).get_device_properties(device).total_memory)
    return torch.mps.recommended_max_memory() if device.type == "mps" else None
