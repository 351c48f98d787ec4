"""The statistics of comparisons: how sure a mean and a difference are, and frontiers of reward against distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import final

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

__all__ = [
    "Interval",
    "at_distance",
    "bootstrap",
    "bootstraps",
    "holm",
    "hypervolume",
    "paired_permutation",
    "shares_at",
]

_EXACT = 12
"""Up to so many pairs every one of the 2^n changes of sign is counted."""

_AT_ONCE = 2**20
"""Changes of sign of single differences that are in memory at a time."""

Point = tuple[float, float]


@final
class Interval(BaseModel):
    """A mean with its 95% interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    low: float
    high: float


def bootstrap(values: Tensor, *, seed: int, resamples: int = 2000) -> Interval:
    """The mean of values [M] and its percentile bootstrap interval, values being drawn with replacement."""
    return bootstraps(values[None], seed=seed, resamples=resamples)[0]


def bootstraps(values: Tensor, *, seed: int, resamples: int = 2000) -> list[Interval]:
    """`bootstrap` of each row of values [K, M], with the same draws in every row."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double()
    drawn = torch.randint(values.shape[1], (resamples, values.shape[1]), generator=generator)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = []
    for row in values:  # one at a time: all of them times the resamples may be more than memory holds
        low, high = row[drawn].mean(-1).quantile(ends).tolist()
        found.append(Interval(mean=float(row.mean()), low=low, high=high))
    return found


def paired_permutation(differences: Tensor, *, seed: int, resamples: int = 10_000) -> float:
    """The two-sided p of a mean difference, differences [M] being as likely with the other sign if nothing differs.

    p = share of the changes of sign whose |mean| is at least the observed one: of all 2^M where M <= 12, so that no p
    is below 2^(1 - M); of `resamples` random ones and the observed one beyond. Raises ValueError where there is none.
    """
    count = len(differences)
    if not count:
        raise ValueError("a permutation test needs at least one difference")
    values = differences.double()
    tolerance = 1e-12 * float(values.abs().sum())  # equal sums that were added in another order
    least = abs(float(values.sum())) - tolerance
    reached = tried = 0
    for flips in _flips(count, seed, resamples):
        sums = (1.0 - 2.0 * flips.double()) @ values
        reached += int((sums.abs() >= least).sum())
        tried += len(flips)
    return reached / tried


def _flips(count: int, seed: int, resamples: int) -> Iterator[Tensor]:
    """Which of `count` signs change, [some, count] of 0 and 1 at a time, so that not all are in memory."""
    if count <= _EXACT:
        yield torch.arange(2**count)[:, None] >> torch.arange(count) & 1
        return
    yield torch.zeros(1, count, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _AT_ONCE // count)
    for done in range(0, resamples, at_once):
        yield torch.randint(2, (min(at_once, resamples - done), count), generator=generator)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of p values for how many they are, in their order: a step-down of (m - i) p_(i), at most 1."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, highest)
    return adjusted


def at_distance(points: Sequence[Point], distance: float) -> float | None:
    """The reward at that distance on the line through points (distance, reward), in the order of their distances.

    Points of one distance count as their mean. None where the points do not reach so far, or begin further away.
    """
    shares = shares_at([place for place, _ in points], distance)
    return None if shares is None else sum(share * points[index][1] for index, share in shares.items())


def shares_at(places: Sequence[float], distance: float) -> dict[int, float] | None:
    """By how much each place has a part in the point at that distance, which lies on the line through the places.

    Index -> share, the shares adding up to 1: those of the place itself, or of its neighbours on both sides. None
    where the places do not reach so far, or begin further away.
    """
    groups: dict[float, list[int]] = {}
    for index, place in enumerate(places):
        groups.setdefault(place, []).append(index)
    if distance in groups:
        return _evenly(groups[distance], 1.0)
    for left, right in pairwise(sorted(groups)):
        if left < distance < right:
            of_right = (distance - left) / (right - left)
            return _evenly(groups[left], 1 - of_right) | _evenly(groups[right], of_right)
    return None


def _evenly(indices: Sequence[int], share: float) -> dict[int, float]:
    return dict.fromkeys(indices, share / len(indices))


def hypervolume(points: Sequence[Point], *, distance: float, reward: float) -> float:
    """The area of the rectangles from each point (distance, reward) to the corner given, taken together.

    It is what the points dominate: no further away than the corner's distance, and at least its reward. A point that is
    further away, or no better than the corner, adds nothing.
    """
    inside = sorted((place, level) for place, level in points if place < distance and level > reward)
    area, reached = 0.0, reward
    for place, level in inside:
        if level > reached:
            area += (distance - place) * (level - reached)
            reached = level
    return area
