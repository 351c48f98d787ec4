"""The figures of a comparison, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from prefopt.comparison.results import Results
from prefopt.comparison.statistics import SEEDS_TO_TELL, least_p
from prefopt.comparison.suite import Plane, Suite
from prefopt.comparison.summary import differences, estimate, frame
from prefopt.report.headline import sentences, size


def test_an_interval_is_over_seeds_where_there_are_several() -> None:
    several = estimate([[1.0, 3.0], [4.0]])
    assert (several.mean, several.over, several.count) == (3, "seeds", 2)
    one = estimate([[1.0, 3.0]])
    assert (one.mean, one.low, one.high, one.over, one.count) == (2, 1, 3, "items", 1)
    assert estimate([[2.0]]).low is None


def test_an_interval_over_seeds_is_students_t() -> None:
    three = estimate([[1.0], [2.0], [6.0]])
    half = 4.302653 * 7**0.5 / 3**0.5  # t of two degrees of freedom, times the standard error
    assert (three.low, three.high) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert least_p(SEEDS_TO_TELL - 1) > 0.05 > least_p(SEEDS_TO_TELL)


def test_differences_are_of_the_items_and_seeds_that_both_have() -> None:
    figures = {
        "base": {0: {"a": 1.0, "b": 2.0}, 1: {"a": 0.0}},
        "better": {0: {"a": 2.0, "b": 3.0, "c": 9.0}, 1: {"a": 3.0}, 2: {"a": 9.0}},
        "worse": {0: {"a": 0.0, "b": 1.0}},
        "alone": {2: {"a": 1.0}},
    }
    against = dict.fromkeys(("better", "worse", "alone", "absent"), "base")
    lines = [(o, s, i, v) for o, seeds in figures.items() for s, items in seeds.items() for i, v in items.items()]
    better, worse = differences(frame(("m", (), *line) for line in lines), against)
    assert (better.name, better.estimate.mean, better.estimate.count) == ("better", 2, 2)  # of 1 and 3
    assert (better.p_items, better.holm_items) == (2 / 8, 2 * 2 / 8)  # items 1, 1, 3: two of the eight changes of sign
    assert (better.p_seeds, better.holm_seeds) == (0.5, 1)
    assert (worse.estimate.mean, worse.p_items, worse.holm_items) == (-1, 0.5, 0.5)
    assert differences(frame(("m", (), *line) for line in lines if line[0] == "base"), {}) == []
    of_seeds = frame(("m", (), name, seed, "", 1.0) for name in ("base", "better") for seed in (0, 1))
    assert [(d.p_items, d.holm_items) for d in differences(of_seeds, against)] == [(None, None)]


def test_frontiers_at_a_matched_distance() -> None:
    suite = Suite.model_validate(
        {
            "task": "planted",
            "objectives": {"dpo": "dpo", "tdpo": "tdpo1"},
            "sweeps": {"objective.beta": [0.1, 1.0], "training.learning_rate": [1e-3]},
            "seeds": [0, 1],
            "frontier": {"at": [5.0], "within": 10.0},
        }
    )
    points = {("dpo", 0.1): (8.0, 5.0), ("dpo", 1.0): (2.0, 3.0), ("tdpo", 0.1): (4.0, 5.0), ("tdpo", 1.0): (1.0, 2.0)}
    records: dict[str, Any] = {}
    for run in suite.runs():
        distance, reward = points.get((run.name, run.setting.get("objective.beta", 0.0)), (0.0, 1.0))
        values = {"sequence_kl": {"p": distance}, "reward": {"p": reward + run.seed}}
        records[run.key] = {"values": values, "error": None}
    last = suite.runs()[-1]
    results = Results.compute(suite, records)
    (plane,) = results.planes
    assert plane.setting == (("training.learning_rate", "0.001"),)
    at_five, volume = plane.measures
    assert at_five.words == "reward at sequence kl 5"
    assert at_five.estimates["dpo"].mean == pytest.approx(4 + 0.5)  # of 4 and 5, in the two seeds
    assert "tdpo" not in at_five.estimates  # its line ends at 4
    assert at_five.extrapolated == []
    usual = Results.compute(suite.model_copy(update={"frontier": None}), records).planes[0].matched
    assert [measure.distance for measure in usual] == [1.8, 3, 5]  # quartiles of 1, 2, 4 and 8
    nearer = suite.model_copy(update={"frontier": Plane(at=(1.5,))})
    assert Results.compute(nearer, records).planes[0].measures[0].extrapolated == ["dpo"]  # whose nearest run is at 2
    assert volume.estimates["dpo"].mean == pytest.approx(8 * 2 + 2 * 2)
    (difference,) = volume.differences
    assert difference.estimate.mean == pytest.approx((9 * 1 + 6 * 3) - 20)
    assert difference.p_seeds == 0.5
    words = list(sentences(results))
    assert size(results).endswith("10 runs, 10 of them finished.")
    assert words[0].endswith("dpo has most, 4.5 [-1.85, 10.9]. Without a figure: tdpo.")
    assert "(and 1 with the same mean), with 5.5 [-0.853, 11.9]" in words[2]

    records[last.key] = {"values": {}, "error": "ValueError: no"}
    results = Results.compute(suite, records)
    assert results.planes[0].measures[1].estimates["tdpo"].count == 1
    assert "9 of them finished, 1 failed" in size(results)
    assert Results.compute(suite, {}).planes == []
