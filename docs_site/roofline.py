"""What the head's passes read, write and compute on three cards, counted on the code itself.

The kernel runs on the meta device, where tensors have shapes and no numbers: each operation of torch that it calls is
counted with the bytes of what it reads and writes, and its floating-point operations; a pass that is compiled is one
operation. The least time of an operation is the larger of what its bytes take at the card's bandwidth and its
operations at its peak.

    python -m docs_site.roofline
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, final
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from prefopt.divergences import ForwardKL
from prefopt.scoring.lm_head import chunk_sizes, precision
from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.chunk_sizes import max_chunk_tokens
from prefopt.scoring.lm_head.chunked_pass import HeadInputs
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.whole_vocabulary import WholeVocabularyKernel

TOKENS = 8192
"""Response tokens of the step that is counted, such as 8 pairs of 512 tokens a response."""

_FIXED_BYTES = 64 * 2**20
"""A chunk's logits under the rule for CPUs."""

_FEW = {"index", "index_put_", "index_add_", "gather", "scatter_add_"}
"""Operations that touch as much of a tensor as the others are large."""


@final
@dataclass(frozen=True)
class Model:
    """The shape of a causal LM in bfloat16."""

    name: str
    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    key_values: int

    @property
    def weights(self) -> int:
        """Of the layers' products."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.key_values
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


@final
@dataclass(frozen=True)
class Card:
    """Published peaks: dense bfloat16 products with float32 sums, operations a second; bytes a second; bytes."""

    name: str
    peak: float
    bandwidth: float
    memory: int
    source: str


MODELS = (
    Model("Llama-3.1-8B", 128_256, 4096, 32, 14_336, 1024),
    Model("Qwen2.5-0.5B", 151_936, 896, 24, 4864, 128),
    Model("SmolLM2-135M", 49_152, 576, 30, 1536, 192),
)
CARDS = (
    Card("H100 SXM", 989.4e12, 3.35e12, 80 * 10**9, "NVIDIA H100 Tensor Core GPU datasheet"),
    Card("A100 80 GB SXM", 312e12, 2.039e12, 80 * 10**9, "NVIDIA A100 80GB datasheet"),
    Card("RTX 4090", 165.2e12, 1.008e12, 24 * 10**9, "NVIDIA Ada GPU architecture whitepaper"),
)


@final
@dataclass(frozen=True)
class Pass:
    """One operation of torch: what it computes, and the bytes that it reads and writes."""

    name: str
    shape: tuple[int, ...]
    operations: float
    bytes: int

    def seconds(self, card: Card) -> float:
        """The least that it takes."""
        return max(self.operations / card.peak, self.bytes / card.bandwidth)


@final
class _Counter(TorchDispatchMode):
    """Collects the operations that move numbers, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[Pass] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if func.is_view or name.startswith(("empty", "new_empty", "detach", "set_")):
            return result
        written = [argument.name for argument in func._schema.arguments if argument.is_out]
        kept = {key: value for key, value in kwargs.items() if key not in written}
        given = list(args[1:] if name in ("copy_", "fill_", "zero_") else args)
        inputs = [leaf for leaf in tree_leaves([given, kept]) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        sizes = [tensor.numel() * tensor.element_size() for tensor in (*inputs, *outputs)]
        count = 2 * min(sizes) if name in _FEW else sum(sizes)
        factors = {"mm": args[:2], "addmm": args[1:3], "addmm_": args[1:3]}.get(name)
        operations = 2 * factors[0].numel() * factors[1].shape[1] if factors else 0
        shape = max((tuple(tensor.shape) for tensor in outputs), key=lambda size: torch.Size(size).numel(), default=())
        self.passes.append(Pass(name, shape, operations, count))
        return result

    def run_fused(self, function: Callable[..., Any], *args: Any) -> Any:
        """The pass as one that reads its tensors once and writes its results once."""
        with _disable_current_modes():
            results = function(*args)
        inputs, outputs = ([leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (args, results))
        count = sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, *outputs))
        shape = max((tuple(tensor.shape) for tensor in inputs), key=lambda size: torch.Size(size).numel())
        self.passes.append(Pass(function.__name__, shape, 0, count))
        return results


@contextmanager
def _products(*, wide: bool) -> Iterator[None]:
    """As on a card on which products of bfloat16 stay in float32, or are rounded."""
    with patch.object(precision, "multiplies_into_float32", lambda *_: wide):
        yield


@cache
def passes(model: Model, tokens: int, *, wide: bool) -> tuple[Pass, ...]:
    """The passes of one chunk of SparsePO, TDPO or MaPO through both heads and back, the head trained."""

    def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    hidden, ref_hidden = meta(tokens, model.hidden), meta(tokens, model.hidden)
    head, ref_head = (Head(meta(model.vocabulary, model.hidden).requires_grad_()) for _ in range(2))
    labels, upstream = meta(tokens, dtype=torch.long), meta(tokens, dtype=torch.float32)
    gradient = HeadGradient.blank(head)
    gradient.written = model.vocabulary  # by a chunk before: the first one adds to nothing
    kernel = WholeVocabularyKernel(
        HeadInputs(
            head=head,
            ref_hidden=ref_hidden,
            ref_head=ref_head,
            labels=labels,
            divergence=ForwardKL(),
            log_collision=False,
            buffers=BufferPool(),
            head_gradient=gradient,
            foreseen=None,
        )
    )
    chunk = slice(0, tokens)
    counter = _Counter()
    fused = patch.object(WholeVocabularyKernel, "_run", lambda _, *args: counter.run_fused(*args))
    with torch.no_grad(), _products(wide=wide), fused, counter:
        _, saved = kernel.forward(hidden, chunk, keep_logits=True)
        kernel.backward(hidden, chunk, saved, upstream, upstream, gradient)
    return tuple(counter.passes)


def chunk_before(model: Model) -> int:
    """Tokens of a chunk under the rule for CPUs."""
    return max(1, _FIXED_BYTES // (4 * model.vocabulary * 32)) * 32


def chunk_after(model: Model, card: Card) -> int:
    """Tokens of a chunk under the rule for accelerators."""
    weight = torch.empty(model.vocabulary, model.hidden, dtype=torch.bfloat16, device="meta")
    with patch.object(chunk_sizes, "accelerator_memory", lambda device: card.memory):
        return max_chunk_tokens(None, weight, ForwardKL())


def least_seconds(model: Model, card: Card, tokens: int, *, wide: bool) -> float:
    """The least time of the head for `TOKENS` tokens in chunks of so many."""
    return sum(one.seconds(card) for one in passes(model, tokens, wide=wide)) * TOKENS / tokens


def limit_seconds(model: Model, card: Card) -> float:
    """The time of the four products alone, at the card's peak."""
    return 8.0 * TOKENS * model.vocabulary * model.hidden / card.peak


def layer_seconds(model: Model, card: Card) -> float:
    """The least time of both models' layers, each token once: forward twice, backward once; attention is left out."""
    return 8.0 * TOKENS * model.weights / card.peak


def cards() -> str:
    """The published figures."""
    lines = ["| card | TFLOP/s | TB/s | GB | operations a byte | source |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {card.name} | {card.peak / 1e12:,.1f} | {card.bandwidth / 1e12:.2f} | {card.memory / 1e9:.0f} | "
        f"{card.peak / card.bandwidth:.0f} | {card.source} |"
        for card in CARDS
    ]
    return "\n".join(lines)


def comparison() -> str:
    """Each model on each card: chunks and the least time of the head, by the rules for CPUs and for accelerators."""
    lines = [
        "| model | card | chunk of 64 MiB | chunk | four products, ms | chunks of 64 MiB, ms | chunks by memory, ms | "
        "of which passes over logits | layers, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for card in CARDS:
            before, after = chunk_before(model), chunk_after(model, card)
            now = least_seconds(model, card, after, wide=True)
            over_logits = sum(one.seconds(card) for one in passes(model, after, wide=True) if not one.operations)
            figures = [
                limit_seconds(model, card),
                least_seconds(model, card, before, wide=False),
                now,
            ]
            lines.append(
                f"| {model.name} | {card.name} | {before:,} | {after:,} | "
                + " | ".join(f"{1e3 * figure:,.1f}" for figure in figures)
                + f" | {over_logits * TOKENS / after / now:.0%} | {1e3 * layer_seconds(model, card):,.1f} |"
            )
    return "\n".join(lines)


def each_pass() -> str:
    """The passes of a chunk of the first model on the first card, those of tensors over the vocabulary."""
    model, card = MODELS[0], CARDS[0]
    tokens = chunk_after(model, card)
    lines = ["| operation | result | TFLOP | GB | least time, ms | bound by |", "|---|---|---|---|---|---|"]
    for one in passes(model, tokens, wide=True):
        if one.bytes < tokens * model.vocabulary:
            continue
        bound = "products" if one.operations / card.peak > one.bytes / card.bandwidth else "memory"
        shape = " x ".join(f"{size:,}" for size in one.shape)
        lines.append(
            f"| `{one.name}` | {shape} | {one.operations / 1e12:.1f} | {one.bytes / 1e9:.1f} | "
            f"{1e3 * one.seconds(card):.2f} | {bound} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n\n".join([cards(), comparison(), each_pass()]))
