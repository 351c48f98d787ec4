"""Packing: several pairs in a row, so that fewer positions are padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

_STEPS = 8
"""Row widths that are tried: from the longest pair to twice its length, in so many steps."""


@final
class Placement(NamedTuple):
    """The row of each of the B pairs, and the position in the row at which the pair starts."""

    rows: Sequence[int]
    starts: Sequence[int]

    def shape(self, lengths: Sequence[int]) -> tuple[int, int]:
        """R, S of the rows, for pairs of these lengths."""
        ends = (start + length for start, length in zip(self.starts, lengths, strict=True))
        return max(self.rows) + 1, max(ends)


def work(rows: int, width: int, hidden_size: int) -> int:
    """Operations of a transformer layer of size H on R rows of S positions, up to a factor: R S (6 H + S).

    The terms are 12 H^2 weights at each position, padding included, and attention's two products over all S.
    """
    return rows * width * (6 * hidden_size + width)


def one_per_row(pairs: int) -> Placement:
    """A row for each pair."""
    return Placement(list(range(pairs)), [0] * pairs)


def first_fit(lengths: Sequence[int], width: int) -> Placement:
    """Longest first, each pair in the first row of `width` positions that has room for it.

    Rows are numbered by their first pair, so that where no row is shared the placement is that of `one_per_row`.
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
    return Placement([numbers[row] for row in rows], starts)


def least_work(lengths: Sequence[int], hidden_size: int, limit: float) -> Placement:
    """The placement of least `work` in rows of at most `limit` positions; `one_per_row` where a pair is longer.

    Rows as long as the longest pair never take more work than a row for each pair. Longer rows may have less padding,
    but more attention: the mask hides other pairs without sparing work.
    """
    longest = max(lengths)
    widths = (longest + longest * step // _STEPS for step in range(_STEPS + 1))
    candidates = [first_fit(lengths, width) for width in widths if width <= limit]

    def work_of(placement: Placement) -> int:
        rows, width = placement.shape(lengths)
        return work(rows, width, hidden_size)

    return min(candidates or [one_per_row(len(lengths))], key=work_of)


def two_in_a_row(lengths: Sequence[int], limit: float) -> Placement:
    """A placement in which at least one row has two pairs, in rows no longer than needed; `one_per_row` where they
    would be longer than `limit`, or there is one pair only."""
    width = max(max(lengths), sum(sorted(lengths)[:2]))
    return first_fit(lengths, width) if width <= limit else one_per_row(len(lengths))
