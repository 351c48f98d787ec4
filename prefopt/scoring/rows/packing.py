"""Which pairs stand one after another in a row, so that fewer positions are padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

__all__ = ["Places", "first_fit", "least_work", "one_each", "two_in_a_row", "work"]

_STEPS = 8
"""Widths that are tried: from the longest pair to twice its length, in so many steps."""


@final
class Places(NamedTuple):
    """The row of each of the B pairs, and the position in it at which the pair begins."""

    rows: Sequence[int]
    starts: Sequence[int]


def work(rows: int, width: int, hidden_size: int) -> int:
    """What a transformer layer of size H has to do in R rows of S positions, up to a factor: R S (6 H + S).

    These are the 12 H^2 weights at each position, padding included, and attention's two products over all S.
    """
    return rows * width * (6 * hidden_size + width)


def one_each(pairs: int) -> Places:
    """A row for every pair."""
    return Places(list(range(pairs)), [0] * pairs)


def first_fit(lengths: Sequence[int], width: int) -> Places:
    """Longest first, each pair in the first row of `width` positions that has room for it.

    Rows are numbered by the first of their pairs, so that pairs with no company stand as in `one_each`.
    """
    ends: list[int] = []
    rows, starts = [0] * len(lengths), [0] * len(lengths)
    for pair in sorted(range(len(lengths)), key=lambda pair: -lengths[pair]):
        row = next((row for row, end in enumerate(ends) if end + lengths[pair] <= width), len(ends))
        if row == len(ends):
            ends.append(0)
        rows[pair], starts[pair] = row, ends[row]
        ends[row] += lengths[pair]
    numbers = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    return Places([numbers[row] for row in rows], starts)


def least_work(lengths: Sequence[int], hidden_size: int, limit: float) -> Places:
    """The places that are least `work`, in rows of at most `limit` positions; `one_each` where a pair is longer.

    In rows as long as the longest pair it is never more than a row for each. Longer ones may leave less padding, but
    attention, whose mask hides the other pairs and spares nothing, costs more there.
    """
    longest = max(lengths)
    widths = (longest + longest * step // _STEPS for step in range(_STEPS + 1))
    tried = [first_fit(lengths, width) for width in widths if width <= limit]
    return min(tried or [one_each(len(lengths))], key=lambda places: work(*_shape(places, lengths), hidden_size))


def two_in_a_row(lengths: Sequence[int], limit: float) -> Places:
    """Places of which at least one row has two pairs, and no row is longer than that takes; `one_each` where that is
    beyond `limit`, or there is one pair only."""
    width = max(max(lengths), sum(sorted(lengths)[:2]))
    return first_fit(lengths, width) if width <= limit else one_each(len(lengths))


def _shape(places: Places, lengths: Sequence[int]) -> tuple[int, int]:
    """R, S."""
    return max(places.rows) + 1, max(start + length for start, length in zip(places.starts, lengths, strict=True))
