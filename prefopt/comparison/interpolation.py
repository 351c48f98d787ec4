"""Rewards between the runs of a frontier, on straight lines in a power of the distance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean

import numpy as np

ByItem = Mapping[str, float]
Line = Sequence[tuple[float, ByItem]]
"""(distance, reward of each item) of an objective's runs in a seed."""

USUAL_POWER = 0.5
"""Near the reference the reward is of first order in the change of the policy, and the KL of second."""

_POWERS = sorted((tenths / 10 for tenths in range(-10, 21)), key=lambda power: abs(power - USUAL_POWER))
_NONE = 1e-100
"""A distance that is none."""

_LEAST = 1e-6
"""Of the distance of its neighbour: a run that is nearer to the reference tells nothing of how frontiers bend."""


def straightest_power(lines: Sequence[Line]) -> float:
    """The power of the distance in which lines are straightest, of -1, -0.9, ..., 2; 0 stands for the logarithm.

    The one for which the reward y_1 of each run between two others of its line, at x_0 < x_1 < x_2, is best predicted:
    the least sum of (y_1 - (1 - w) y_0 - w y_2)^2 / (1 + w^2 + (1 - w)^2), w being x_1's part of the way from x_0 to
    x_2 in that power; the denominator is what independent errors of the rewards come to. USUAL_POWER where no line has
    three runs.
    """
    triples = [triple for line in lines for triple in _triples(line)]
    if not triples:
        return USUAL_POWER
    (x_0, y_0), (x_1, y_1), (x_2, y_2) = np.array(triples).transpose(1, 2, 0)

    def error(power: float) -> float:
        w = _part(x_0 / x_1, x_2 / x_1, power)
        return float((((1 - w) * (y_1 - y_0) + w * (y_1 - y_2)) ** 2 / (1 + w**2 + (1 - w) ** 2)).sum())

    return min(_POWERS, key=error)


def _triples(line: Line) -> Iterator[tuple[tuple[float, float], ...]]:
    """(distance, mean reward) of three neighbours; runs of equal distance count as one."""
    means = sorted((distance, fmean(rewards.values())) for distance, rewards in line)
    points = [(x, fmean(y for _, y in equal)) for x, equal in groupby(means, key=lambda point: point[0])]
    for triple in zip(points, points[1:], points[2:], strict=False):
        if triple[0][0] > _LEAST * triple[2][0]:
            yield triple


def _part(low: np.ndarray, high: np.ndarray, power: float) -> np.ndarray:
    """Which part of the way from low to high, in the power, 1 is."""
    if power == 0:
        return -np.log(low) / (np.log(high) - np.log(low))
    return (1 - low**power) / (high**power - low**power)


def reward_at(line: Line, distance: float, power: float) -> ByItem:
    """The reward of each item at that distance: on the line between the neighbouring runs, item by item.

    Nothing where no run is nearer to the reference, or none further: beyond the runs, frontiers bend unseen.
    """
    shares = shares_at([x for x, _ in line], distance, power)
    if shares is None:
        return {}
    first, *others = (line[index][1] for index in shares)
    shared = [item for item in first if all(item in other for other in others)]
    return {item: sum(share * line[index][1][item] for index, share in shares.items()) for item in shared}


def shares_at(distances: Sequence[float], distance: float, power: float) -> dict[int, float] | None:
    """The weights with which points at `distances` are averaged into the point at `distance` on the line through them.

    The line is straight in that power of the distance. Index -> share, the shares adding up to 1: of the points at that
    distance, or of its neighbours on both sides. None where the line does not reach the distance.
    """
    low = max((d for d in distances if d <= distance), default=None)
    high = min((d for d in distances if d >= distance), default=None)
    if low is None or high is None:
        return None
    share = 1.0
    if low < high and (power > 0 or low > _NONE):  # else the nearer run is infinitely far in the power
        share = float(_part(np.array(low / distance), np.array(high / distance), power))
    ends = {low: 1 - share, high: share}
    return {i: ends[d] / list(distances).count(d) for end in ends for i, d in enumerate(distances) if d == end}
