"""Where a pair may share one row: how far back a model's layers see, and whether sharing is less work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

from prefopt.scoring.layout import Layout

__all__ = ["reach", "saves_work"]

_WINDOWS = ("sliding_window", "attention_window_size", "window_size", "attention_chunk_size")
"""The configuration's names for how many positions a layer looks back over."""


def reach(model: PreTrainedModel) -> float:
    """The longest row in which every layer sees all that came before, in positions.

    Where it sees less, or remembers it in a state, what lies between prompt and rejected response changes what that
    response sees. Agreement on a short batch says nothing of longer ones, so the configuration has to tell.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds == {"full_attention"}:
        return math.inf
    if kinds - {"full_attention", "sliding_attention", "chunked_attention"}:
        return 0.0
    return min(_whole_numbers(getattr(config, name, None) for name in _WINDOWS), default=math.inf)


def saves_work(shared: Layout, rows: Layout, hidden_size: int) -> bool:
    """Whether a transformer layer has less to do in one row a pair than in two.

    R rows of S positions cost it R S (6 H + S), up to a factor: 12 H^2 weights at each position, and attention's two
    products over all S. Only this part of a step depends on the layout; the head sees M response tokens in both.
    """
    return _work(shared, hidden_size) < _work(rows, hidden_size)


def _work(layout: Layout, hidden_size: int) -> int:
    rows, width = layout.input_ids.shape
    return rows * width * (6 * hidden_size + width)


def _whole_numbers(values: Iterator[Any]) -> Iterator[int]:
    return (value for value in values if isinstance(value, int) and not isinstance(value, bool))
