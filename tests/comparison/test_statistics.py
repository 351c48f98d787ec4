from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]

from prefopt.comparison import statistics
from prefopt.comparison.statistics import (
    SEEDS_TO_TELL,
    holm,
    hypervolume,
    least_p,
    most_seeds,
    paired_permutation,
    paired_t,
    seeds_to_tell,
    t_intervals,
)


def test_an_interval_is_students_t() -> None:
    low, high = t_intervals(np.array([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]]))
    half = 4.302653 * 7**0.5 / 3**0.5  # t of two degrees of freedom, times the standard error
    assert low == pytest.approx([3 - half, 3])
    assert high == pytest.approx([3 + half, 3])


def test_a_paired_t_test_needs_a_spread() -> None:
    assert paired_t([1.0, 2.0, 6.0]) == pytest.approx(0.18850, abs=1e-5)  # t = 3 / (7 ** 0.5 / 3 ** 0.5)
    assert [paired_t(values) for values in ([], [2.0], [0.1, 0.1 + 1e-17, 0.1], [0.0, 0.0])] == [None] * 4


def test_the_seeds_that_tell_a_difference_tell_it_in_four_of_five() -> None:
    draw = np.random.default_rng(0)
    pilot = np.array([-1.0, 0.0, 1.0]) * 1.0 + 0.8  # of mean 0.8 and standard deviation 1
    for comparisons, level in ((1, 0.05), (3, 0.05 / 3)):
        seeds = seeds_to_tell(pilot, comparisons=comparisons)
        assert seeds is not None
        told = [stats.ttest_1samp(draw.normal(0.8, 1, (4000, n)), 0, axis=1).pvalue < level for n in (seeds, seeds - 1)]
        assert told[0].mean() == pytest.approx(0.8, abs=0.04)
        assert told[1].mean() < told[0].mean()
    assert seeds_to_tell([100.0, 101.0]) == SEEDS_TO_TELL
    assert [seeds_to_tell(values) for values in ([1.0], [1.0, 1.0], [-1.0, 1.0], [1e-3, 1.0, -1.0])] == [None] * 4


def test_how_many_seeds_are_most() -> None:
    assert [most_seeds(seeds) for seeds in (1, 3, 6, 7, 8, 10, 20)] == [1, 3, 6, 6, 6, 8, 15]
    assert least_p(SEEDS_TO_TELL - 1) > 0.05 > least_p(SEEDS_TO_TELL)


def test_a_permutation_p_is_a_share_of_all_changes_of_sign() -> None:
    values = [0.5, -0.25, 2.0, 1.0, 0.0, 0.75]
    signs = list(itertools.product((1, -1), repeat=len(values)))
    sums = [abs(sum(s * v for s, v in zip(flips, values, strict=True))) for flips in signs]
    counted = sum(total >= abs(sum(values)) - 1e-12 for total in sums) / len(signs)
    assert paired_permutation(torch.tensor(values), seed=0, resamples=10_000) == pytest.approx(counted)
    assert paired_permutation(-torch.tensor(values), seed=1, resamples=10_000) == pytest.approx(counted)


def test_five_differences_of_one_sign_give_the_least_p_there_is() -> None:
    assert paired_permutation(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), seed=0, resamples=10_000) == 2 / 2**5
    assert paired_permutation(torch.zeros(4), seed=0, resamples=10_000) == 1
    with pytest.raises(ValueError, match="at least one difference"):
        paired_permutation(torch.zeros(0), seed=0, resamples=10_000)


def test_many_differences_are_sampled_close_to_the_normal_p() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(1)) + 0.15
    z = float(values.double().sum() / values.double().square().sum().sqrt())
    expected = float(torch.special.erfc(torch.tensor(abs(z) / 2**0.5)))
    p = paired_permutation(values, seed=0, resamples=10_000)
    assert 0.005 < expected < 0.5
    assert p == pytest.approx(expected, abs=0.02)
    assert p == paired_permutation(values, seed=0, resamples=10_000)
    assert paired_permutation(values + 10, seed=0, resamples=10_000) == pytest.approx(1 / 10_001)


def test_changes_of_sign_are_drawn_alike_however_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(37, generator=torch.Generator().manual_seed(2)) + 0.2
    drawn = 1.0 - 2.0 * torch.randint(2, (1000, 37), generator=torch.Generator().manual_seed(3)).double()
    reached = (drawn @ values.double()).abs() >= values.double().sum().abs() - 1e-9
    expected = (1 + int(reached.sum())) / 1001
    for in_memory in (1, 100, 2**20):
        monkeypatch.setattr(statistics, "_FLIPS_IN_MEMORY", in_memory)
        assert paired_permutation(values, seed=3, resamples=1000) == expected


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


def test_hypervolume_by_hand() -> None:
    corner = {"distance": 10.0, "reward": 1.0}
    assert hypervolume([], **corner) == 0
    assert hypervolume([(4.0, 3.0)], **corner) == 6 * 2
    assert hypervolume([(4.0, 3.0), (6.0, 5.0)], **corner) == 6 * 2 + 4 * 2
    assert hypervolume([(4.0, 3.0), (6.0, 2.0), (11.0, 9.0), (2.0, 0.5)], **corner) == 6 * 2


def test_hypervolume_is_the_share_of_the_plane_that_is_dominated() -> None:
    draw = random.Random(0)
    points = [(draw.uniform(0, 12), draw.uniform(-1, 5)) for _ in range(8)]
    steps = 400
    hit = sum(
        any(distance <= x and reward >= y for distance, reward in points)
        for x in (10 * (i + 0.5) / steps for i in range(steps))
        for y in (5 * (i + 0.5) / steps for i in range(steps))
    )
    assert hypervolume(points, distance=10, reward=0) == pytest.approx(50 * hit / steps**2, rel=0.01)
