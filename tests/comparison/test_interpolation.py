"""Frontiers between their runs, and the distances at which objectives are compared."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from prefopt.comparison.distances import common_distances
from prefopt.comparison.interpolation import USUAL_POWER, Line, reward_at, shares_at, straightest_power


def at_distance(points: list[tuple[float, float]], distance: float, power: float = 1.0) -> float | None:
    shares = shares_at([x for x, _ in points], distance, power)
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


@pytest.mark.parametrize("power", [-1.0, -0.3, 0.0, 0.5, 1.0, 2.0])
def test_a_frontier_that_is_straight_in_the_power_is_read_right(power: float) -> None:
    def height(distance: float) -> float:
        return 7 + 3 * (math.log(distance) if power == 0 else math.copysign(distance**power, power))

    points = [(x, height(x)) for x in (1.0, 3.0, 10.0)]
    for distance in (1.0, 1.5, 2.9, 3.0, 6.0, 10.0):
        assert at_distance(points, distance, power) == pytest.approx(height(distance))
    line: Line = [(x, {"easy": y + 1, "hard": y - 1}) for x, y in points]
    assert straightest_power([line]) == pytest.approx(power)
    assert reward_at(line, 2.0, power) == pytest.approx({"easy": height(2) + 1, "hard": height(2) - 1})
    assert reward_at(line, 11.0, power) == {}


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5])
def test_from_a_run_that_did_not_move_it_is_read_between_its_neighbours(power: float) -> None:
    for distance in (0.1, 1.0, 3.9):
        reward = at_distance([(0.0, 1.0), (4.0, 3.0)], distance, power)
        assert reward is not None
        assert 1 <= reward <= 3


def test_where_no_line_has_three_runs_the_power_is_the_usual_one() -> None:
    item = {"": 1.0}
    assert straightest_power([]) == USUAL_POWER
    assert straightest_power([[(1.0, item), (2.0, item)], [(0.0, item), (0.0, item), (3.0, item)]]) == USUAL_POWER
    assert straightest_power([[(1.0, item), (2.0, item), (4.0, item)]]) == USUAL_POWER  # all are straight


def test_the_power_is_that_of_most_lines() -> None:
    def line(height: Callable[[float], float]) -> Line:
        return [(x, {"": height(x)}) for x in (0.5, 1.0, 2.0, 4.0)]

    assert straightest_power([line(math.sqrt), line(math.sqrt), line(lambda x: 3 * x**0.6)]) in (0.5, 0.6)


def test_the_distances_are_those_that_most_reach_on_most_seeds() -> None:
    """One objective goes half as far and one twice, and one hardly moves."""
    spans = {
        "dpo": dict.fromkeys(range(6), (1.0, 16.0)),
        "near": dict.fromkeys(range(6), (0.5, 8.0)),
        "far": dict.fromkeys(range(6), (2.0, 32.0)),
        "still": dict.fromkeys(range(6), (0.0, 0.0)),
    }
    assert common_distances(spans, "dpo") == (2.8, 4.0, 5.7)
    unlike = {**spans, "far": {**spans["far"], 0: (6.0, 32.0)}}
    assert all(6 <= distance <= 8 for distance in common_distances(unlike, "dpo"))
    apart = {**spans, "far": dict.fromkeys(range(6), (20.0, 32.0))}
    assert common_distances(apart, "dpo") == common_distances({n: spans[n] for n in ("dpo", "near")}, "dpo")
    assert all(1 <= distance <= 8 for distance in common_distances(apart, "dpo"))
    assert common_distances({"still": spans["still"]}, "still") == ()
    assert common_distances({"dpo": spans["dpo"]}, "dpo") == (2.0, 4.0, 8.0)
    assert common_distances({"dpo": {0: (1.0, 2.0)}, "far": {0: (3.0, 4.0)}}, "dpo") == ()
    assert common_distances({}, "dpo") == ()


def test_the_baseline_is_compared_where_it_can_be() -> None:
    spans = {name: dict.fromkeys(range(6), (5.0, 9.0)) for name in "abcd"} | {
        "dpo": dict.fromkeys(range(6), (1.0, 3.0)),
        "near": dict.fromkeys(range(6), (2.0, 4.0)),
    }
    assert all(2 <= distance <= 3 for distance in common_distances(spans, "dpo"))
    del spans["near"]
    assert all(5 <= distance <= 9 for distance in common_distances(spans, "dpo"))


def test_of_a_narrow_range_there_is_one_distance() -> None:
    spans = {"dpo": {0: (1.0, 2.01)}, "other": {0: (2.0, 4.0)}}
    assert common_distances(spans, "dpo") == (2.0,)
    assert common_distances({"dpo": {0: (1.0, 2.0)}, "other": {0: (2.0, 4.0)}}, "dpo") == (2.0,)
    assert common_distances({"dpo": {0: (0.0, 2.0)}, "other": {0: (0.0, 4.0)}}, "dpo") == (0.5, 1.0, 1.5)


def test_many_objectives_on_few_seeds_do_not_outrank_few_on_most() -> None:
    """Near 2 only seed 0 of the baseline is, and all others; near 6 are the baseline and one other in all seeds."""
    spans = {
        "dpo": {seed: (1.0 if seed == 0 else 5.0, 8.0) for seed in range(6)},
        "far": dict.fromkeys(range(6), (4.0, 9.0)),
        **{name: dict.fromkeys(range(6), (1.0, 3.0)) for name in "abc"},
    }
    assert all(5 <= distance <= 8 for distance in common_distances(spans, "dpo"))
