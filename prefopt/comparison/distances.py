"""The distances from the reference at which objectives are compared, unless the suite says: those that most reach."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

from prefopt.comparison.differences import compared
from prefopt.comparison.statistics import most_seeds

Span = tuple[float, float]
"""The distances of the nearest and the farthest run of an objective in a seed."""

_QUARTERS = (0.25, 0.5, 0.75)
_WIDE = 1.5
"""How many times as far as its near end the far end of a range is in which distances differ enough for several."""


def common_distances(spans: Mapping[str, Mapping[int, Span]], baseline: str) -> tuple[float, ...]:
    """A quarter, half and three quarters of the way, in logarithms, through the range that most objectives reach.

    spans  objective -> seed -> span; those that did not move do not count

    The range has the first rank (see `rank`); of several such ranges it is the widest. Half of the way alone through a
    narrow one. Nothing depends on rewards. Empty where none moved, or no two of several reach any.
    """
    moved = {name: {seed: span for seed, span in by_seed.items() if span[1] > 0} for name, by_seed in spans.items()}
    all_seeds = len({seed for by_seed in moved.values() for seed in by_seed})
    ranges: dict[tuple[int, ...], list[Span]] = {}
    previous = None
    for low, high in _steps(sorted({end for by_seed in moved.values() for span in by_seed.values() for end in span})):
        middle = _on_the_way(low, high, 0.5)
        reached = {
            name: {seed for seed, (near, far) in by_seed.items() if near <= middle <= far}
            for name, by_seed in moved.items()
        }
        names, seeds = compared(reached, baseline)
        score = rank(names, seeds, all_seeds, baseline)
        alike = ranges.setdefault(score, [])
        alike.append((alike.pop()[0] if score == previous else low, high))
        previous = score
    best = max(ranges, default=None)
    if best is None or (len(spans) > 1 and not best[1]):
        return ()
    near, far = max(ranges[best], key=lambda span: span[1] / span[0] if span[0] else math.inf)
    parts = _QUARTERS if far >= _WIDE * near else (0.5,)
    return tuple(dict.fromkeys(_rounded(_on_the_way(near, far, part), near, far) for part in parts))


def rank(names: Collection[str], seeds: Collection[int], all_seeds: int, baseline: str) -> tuple[int, ...]:
    """How well a distance is fit for a comparison, the greater the better, if these are compared there on these seeds.

    First whether several are, on most of all seeds; whether several are at all; whether the baseline is among them; how
    many they are, and on how many seeds. Seeds come before objectives where they are not most.
    """
    several, most = len(names) > 1, len(seeds) >= most_seeds(all_seeds)
    counts = (len(names), len(seeds)) if several and most else (len(seeds), len(names))
    return (several and most, several, several and baseline in names, *counts)


def _steps(ends: Sequence[float]) -> Iterator[Span]:
    """Each end, and what is between it and the next: from step to step other runs are around."""
    for low, high in pairwise(ends):
        yield from ((low, low), (low, high)) if low > 0 else ((low, high),)
    yield from ((end, end) for end in ends[-1:])


def _on_the_way(near: float, far: float, part: float) -> float:
    if near in (0, far):
        return far * part if near < far else far
    return near ** (1 - part) * far**part


def _rounded(distance: float, near: float, far: float) -> float:
    """In as few digits, two at least, as it stays within the two in."""
    rounded = (float(f"{distance:.{digits}g}") for digits in range(2, 17))
    return next((d for d in rounded if near <= d <= far), distance)
