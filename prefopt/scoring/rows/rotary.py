"""Rotary embeddings whose frequencies follow the longest row of a batch, taken for every row at its own length.

Dynamic NTK and LongRoPE choose the frequencies of a batch once it has a row beyond a limit, and dynamic NTK keeps them
for later batches. What a model says of a response would depend on the rows beside it, and on those before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def longest_unscaled_row(model: PreTrainedModel) -> float:
    """The longest row at whose length no rotary embedding changes its frequencies; infinity where none ever does."""
    return min(_rescaling(model).values(), default=math.inf)


@contextmanager
def rows_at_their_lengths(model: PreTrainedModel, attention_mask: Tensor) -> Iterator[None]:
    """A context in which rotary embeddings treat every row as if it were called alone and without padding.

    attention_mask [R, S], of rows that are padded on the right and hold one response each.
    """
    by_row = partial(_by_row, attention_mask.sum(-1).tolist(), attention_mask.shape[1])
    with ExitStack() as stack:
        for module in _rescaling(model):
            stack.callback(module.register_forward_hook(by_row, with_kwargs=True).remove)
        yield


def _by_row(
    lengths: list[int],
    width: int,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Cosines and sines [R, S, D], those of a row at the frequencies of its length; those of short rows are left."""
    states, positions = args[0] if args else kwargs["x"], args[1] if len(args) > 1 else kwargs["position_ids"]
    others = {name: value for name, value in kwargs.items() if name not in ("x", "position_ids")}
    added = positions.shape[-1] - width  # an adapter's own tokens, before each row

    def embed(length: int) -> tuple[Tensor, ...]:
        module.forward(states, torch.zeros_like(positions), **others)  # forgets the frequencies of longer rows
        values: tuple[Tensor, ...] = module.forward(states, positions.clamp(max=length + added - 1), **others)
        return values

    by_length = {length: embed(length) for length in sorted(set(lengths))}
    embed(1)
    rows = [[values[row if len(values) > 1 else 0] for values in by_length[n]] for row, n in enumerate(lengths)]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def _rescaling(model: PreTrainedModel) -> dict[nn.Module, float]:
    """The longest row at fixed frequencies, of each rotary embedding whose frequencies are not fixed."""
    limits = {module: _limit(module) for module in model.modules() if hasattr(module, "rope_type")}
    return {module: limit for module, limit in limits.items() if limit < math.inf}


def _limit(module: Any) -> float:
    """The longest row at fixed frequencies."""
    kinds = module.rope_type if isinstance(module.rope_type, Mapping) else {None: module.rope_type}
    limits: list[float] = [math.inf]
    for layers, kind in kinds.items():
        if kind == "longrope":
            parameters = module.config.rope_parameters
            limits.append((parameters if layers is None else parameters[layers])["original_max_position_embeddings"])
        elif "dynamic" in kind:
            limits.append(module.original_max_seq_len)
    return min(limits)
