"""Statistics of comparisons: intervals of means, paired tests, Holm's adjustment, seeds to tell, and frontiers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

LEVEL = 0.05
"""A difference whose adjusted p is below is told from chance."""

SEEDS_TO_TELL = 6
"""The fewest seeds for which a sign-flip test can give p < LEVEL."""

_CONFIDENCE = 0.95
_POWER = 0.8
_MANY_SEEDS = 1000
_MOST = 0.75
_EXACT = 12
"""The greatest number of differences for which all 2^n changes of sign are counted."""

_FLIPS_IN_MEMORY = 2**20

Array = NDArray[np.float64]
Point = tuple[float, float]


def t_intervals(values: Array) -> tuple[Array, Array]:
    """The ends, low [...] and high [...], of 95% Student's t intervals of means, values [..., M >= 2].

    NaN where a value is not finite. Not bootstrap, which is too short for few seeds: see `benchmarks/coverage.py`.
    """
    with np.errstate(invalid="ignore"):
        half = stats.t.ppf((1 + _CONFIDENCE) / 2, values.shape[-1] - 1) * stats.sem(values, axis=-1)
        return values.mean(-1) - half, values.mean(-1) + half


def paired_t(differences: Sequence[float] | Array) -> float | None:
    """The two-sided p of Student's t test of a mean difference, differences [M >= 1].

    None where there is no spread to judge by: of one difference, or of equal ones.
    """
    values = np.asarray(differences, dtype=np.float64)
    return float(stats.ttest_1samp(values, 0.0).pvalue) if _spread(values) else None


def _spread(values: Array) -> float:
    """The standard deviation; 0 where values are equal but for rounding."""
    equal = len(values) < 2 or np.ptp(values) <= 1e-12 * np.abs(values).max()
    return 0.0 if equal else float(values.std(ddof=1))


def seeds_to_tell(differences: Sequence[float] | Array, *, comparisons: int = 1) -> int | None:
    """About how many seeds tell a mean difference like this one in four of five comparisons, differences [M].

    The least n >= SEEDS_TO_TELL whose t test at level 0.05 / comparisons has a power of 0.8 (noncentral t, of mean and
    standard deviation as they are in `differences`). None where there is no spread, no difference, or n is above 1000.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not (spread := _spread(values)) or not values.mean():
        return None
    seeds = np.arange(SEEDS_TO_TELL, _MANY_SEEDS + 1)
    threshold = stats.t.isf(LEVEL / 2 / comparisons, seeds - 1)
    shift = abs(values.mean()) / spread * np.sqrt(seeds)
    enough = seeds[stats.nct.sf(threshold, seeds - 1, shift) >= _POWER]
    return int(enough[0]) if len(enough) else None


def most_seeds(seeds: int) -> int:
    """How many of so many seeds an objective needs to be compared on: three of four, and no fewer than can tell."""
    return max(math.ceil(_MOST * seeds), min(seeds, SEEDS_TO_TELL))


def least_p(seeds: int) -> float:
    """The smallest p value that a sign-flip test over so many seeds can give."""
    return float(2.0 ** (1 - seeds))


def paired_permutation(differences: Sequence[float] | Tensor, *, seed: int, resamples: int) -> float:
    """The two-sided p of a mean difference, differences [M] being as likely with the other sign if nothing differs.

    p = share of the changes of sign whose |mean| is at least the observed one: of all 2^M where M <= 12, so that no p
    is below 2^(1 - M); of `resamples` random ones and the observed one beyond. Raises ValueError where there is none.
    Sums that differ by the order of addition count as equal, which `scipy.stats.permutation_test` does not ensure.
    """
    values = torch.as_tensor(differences, dtype=torch.float64)
    if not len(values):
        raise ValueError("a permutation test needs at least one difference")
    tolerance = 1e-12 * float(values.abs().sum())
    least = abs(float(values.sum())) - tolerance
    reached = total = 0
    for flips in _flips(len(values), seed, resamples):
        sums = (1.0 - 2.0 * flips.double()) @ values
        reached += int((sums.abs() >= least).sum())
        total += len(flips)
    return reached / total


def _flips(count: int, seed: int, resamples: int) -> Iterator[Tensor]:
    """Batches [batch, count] of 0 and 1, where 1 changes the sign."""
    if count <= _EXACT:
        yield torch.arange(2**count)[:, None] >> torch.arange(count) & 1
        return
    yield torch.zeros(1, count, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, _FLIPS_IN_MEMORY // count)
    for start in range(0, resamples, batch):
        yield torch.randint(2, (min(batch, resamples - start), count), generator=generator)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values, in their order: the running maximum of (m - i) p_(i), at most 1."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1.0)
    return list(map(float, adjusted))


def hypervolume(points: Sequence[Point], *, distance: float, reward: float) -> float:
    """The area that points (distance, reward) dominate, up to a corner: the union of their rectangles to it.

    A point that is further away than the corner, or no better, adds nothing.
    """
    area, height = 0.0, reward
    for x, y in sorted((x, y) for x, y in points if x < distance and y > reward):
        if y > height:
            area += (distance - x) * (y - height)
            height = y
    return area
