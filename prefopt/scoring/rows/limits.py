"""Where pairs may share a row: how far back a model's layers see, and which rows are less work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, final

from transformers import PreTrainedModel

from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.packing import least_work, work
from prefopt.tokens import PreferenceBatch

__all__ = ["Limits", "layout_of", "reach", "saves_work"]

_WINDOWS = ("sliding_window", "attention_window_size", "window_size", "attention_chunk_size")
"""The configuration's names for how many positions a layer looks back over."""

_POSITIONS = "max_position_embeddings"


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


@final
class Limits(NamedTuple):
    """How long rows may be, in positions: one that a pair shares, and one that several pairs do."""

    reach: float
    room: float

    @classmethod
    def of(cls, models: Iterable[PreTrainedModel]) -> Limits:
        """Rows within the reach of every model; of several pairs, also no longer than those that it was made for."""
        found = [(reach(model), getattr(model.config.get_text_config(), _POSITIONS, None)) for model in models]
        within = min(far for far, _ in found)
        return cls(within, min([within, *_whole_numbers(positions for _, positions in found)]))


def layout_of(batch: PreferenceBatch, hidden_size: int, limits: Limits) -> Layout:
    """The rows that are least work: two a pair, or, where they are within reach, one for a pair or for as many pairs
    as there is room for."""
    rows = Layout.of(batch)
    shared = Layout.shared(batch, least_work(batch.lengths.tolist(), hidden_size, limits.room))
    return shared if shared.width <= limits.reach and saves_work(shared, rows, hidden_size) else rows


def saves_work(shared: Layout, rows: Layout, hidden_size: int) -> bool:
    """Whether a transformer layer has less to do in shared rows than in two a pair.

    Only this part of a step depends on the layout; the head sees M response tokens in both.
    """
    one, two = (work(len(layout.input_ids), layout.width, hidden_size) for layout in (shared, rows))
    return one < two


def _whole_numbers(values: Iterator[Any]) -> Iterator[int]:
    return (value for value in values if isinstance(value, int) and not isinstance(value, bool))
