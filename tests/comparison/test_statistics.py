from __future__ import annotations

import itertools
import random

import pytest
import torch

from prefopt.comparison import statistics
from prefopt.comparison.statistics import bootstrap, holm, hypervolume, paired_permutation, shares_at


def test_the_bootstrap_is_about_the_standard_error() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap(values.numpy(), seed=0)
    assert (low, high) == bootstrap(values.numpy(), seed=0) != bootstrap(values.numpy(), seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)


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


def at_distance(points: list[tuple[float, float]], distance: float) -> float | None:
    shares = shares_at([x for x, _ in points], distance)
    return None if shares is None else sum(share * points[index][1] for index, share in shares.items())


def test_a_frontier_is_read_between_its_points() -> None:
    points = [(10.0, 4.0), (0.0, 0.0), (5.0, 3.0)]
    assert at_distance(points, 5.0) == 3
    assert at_distance(points, 2.5) == pytest.approx(1.5)
    assert at_distance(points, 7.5) == pytest.approx(3.5)
    assert at_distance(points, 10.0) == 4
    assert at_distance(points, 10.1) is None
    assert at_distance(points[:1], 1.0) is None
    assert at_distance([(1.0, 2.0), (1.0, 4.0), (3.0, 5.0)], 2.0) == pytest.approx(4)
    assert at_distance([], 1.0) is None


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
