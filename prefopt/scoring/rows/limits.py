"""Which rows a batch gets: the limits on shared rows that the models set, and the layout of least work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, final

from transformers import PreTrainedModel

from prefopt.scoring.rows.layout import Layout, longest_row
from prefopt.scoring.rows.packing import least_work, work
from prefopt.scoring.rows.rotary import longest_unscaled_row
from prefopt.tokens import PreferenceBatch

_WINDOWS = ("sliding_window", "attention_window_size", "window_size", "attention_chunk_size", "keep_window_size")
"""Configuration names of the number of positions that a layer attends back over."""

_POSITIONS = ("max_position_embeddings", "max_seq_len", "max_target_positions")
"""Configuration names of the number of positions that there are, or that the model was made for."""


def attention_window(model: PreTrainedModel) -> float:
    """The longest row in which every layer attends to all earlier positions, at frequencies that do not follow the
    row's length; 0 for recurrent layers.

    In longer rows the chosen response would change what the rejected one attends to. This is read from the
    configuration, since agreement on a short batch does not extend to longer ones.
    """
    config, unscaled = model.config.get_text_config(), longest_unscaled_row(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds == {"full_attention"}:
        return unscaled
    if kinds - {"full_attention", "sliding_attention", "chunked_attention"}:
        return 0.0
    return min(unscaled, min(_integers(getattr(config, name, None) for name in _WINDOWS), default=math.inf))


def position_table(model: PreTrainedModel) -> float:
    """The number of positions that a model knows, as its configuration says; infinity where it does not."""
    config = model.config.get_text_config()
    return min(_integers(getattr(config, name, None) for name in _POSITIONS), default=math.inf)


@final
class RowLimits(NamedTuple):
    """Longest rows in positions: `attention_window` with one pair, `max_positions` with several."""

    attention_window: float
    max_positions: float

    @classmethod
    def from_models(cls, models: Iterable[PreTrainedModel]) -> RowLimits:
        """The smallest attention window, and the smaller of it and the fewest positions."""
        models = list(models)
        window = min(attention_window(model) for model in models)
        return cls(window, min(window, *map(position_table, models)))


def best_layout(batch: PreferenceBatch, hidden_size: int, limits: RowLimits) -> Layout:
    """The layout of least work within the limits: two rows a pair, one row a pair, or several pairs in a row."""
    lengths = batch.lengths.tolist()
    placement = least_work(lengths, hidden_size, limits.max_positions)
    shared, two_rows = placement.shape(lengths), (2 * batch.pairs, longest_row(batch))
    if shared[1] <= limits.attention_window and saves_work(shared, two_rows, hidden_size):
        return Layout.shared(batch, placement)
    return Layout.two_rows(batch)


def saves_work(shared: tuple[int, int], two_rows: tuple[int, int], hidden_size: int) -> bool:
    """Whether a transformer layer has less work in shared rows than in two rows a pair, of shapes R, S. The head's work
    is equal."""
    return work(*shared, hidden_size) < work(*two_rows, hidden_size)


def _integers(values: Iterator[Any]) -> Iterator[int]:
    return (value for value in values if isinstance(value, int) and not isinstance(value, bool))
