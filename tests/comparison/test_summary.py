"""The figures of a comparison, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from prefopt.comparison.frontier import frontiers
from prefopt.comparison.suite import Plane, Suite
from prefopt.comparison.summary import compared, differences, estimate, rows
from prefopt.report.sentences import sentences, size


def test_an_interval_is_over_seeds_where_there_are_several() -> None:
    several = estimate([[1.0, 3.0], [], [4.0]])
    assert several is not None
    assert (several.mean, several.low, several.high, several.over, several.count) == (3, 2, 4, "seeds", 2)
    one = estimate([[1.0, 3.0]])
    assert one is not None
    assert (one.mean, one.low, one.high, one.over) == (2, 1, 3, "items")
    assert estimate([[2.0]]).low is None  # type: ignore[union-attr]
    assert estimate([[], []]) is None


def test_differences_are_of_the_items_and_seeds_that_both_have() -> None:
    by_name = {
        "base": {0: {"a": 1.0, "b": 2.0}, 1: {"a": 0.0}},
        "better": {0: {"a": 2.0, "b": 3.0, "c": 9.0}, 1: {"a": 3.0}, 2: {"a": 9.0}},
        "worse": {0: {"a": 0.0, "b": 1.0}},
        "alone": {2: {"a": 1.0}},
    }
    against = dict.fromkeys(("better", "worse", "alone", "absent"), "base")
    better, worse = compared("m", (), by_name, against, of_items=True)
    assert (better.name, better.estimate.mean, better.estimate.count) == ("better", 2, 2)  # of 1 and 3
    assert (better.p_items, better.holm_items) == (2 / 8, 2 * 2 / 8)  # items 1, 1, 3: two of the eight changes of sign
    assert (better.p_seeds, better.holm_seeds) == (0.5, 1)
    assert (worse.estimate.mean, worse.p_items, worse.holm_items) == (-1, 0.5, 0.5)
    assert all(each.p_items is each.holm_items is None for each in compared("m", (), by_name, against, of_items=False))


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
    places = {("dpo", 0.1): (8.0, 5.0), ("dpo", 1.0): (2.0, 3.0), ("tdpo", 0.1): (4.0, 5.0), ("tdpo", 1.0): (1.0, 2.0)}
    records: dict[str, Any] = {}
    for run in suite.runs():
        distance, reward = places.get((run.name, run.setting.get("objective.beta", 0.0)), (0.0, 1.0))
        values = {"sequence_kl": {"p": distance}, "reward": {"p": reward + run.seed}}
        records[run.key] = {"values": values, "error": None}
    last = suite.runs()[-1]
    table = rows(suite, records)
    (plane,) = frontiers(suite, table)
    assert plane.setting == (("training.learning_rate", "0.001"),)
    at_five, volume = plane.measures
    assert at_five.words == "reward at sequence kl 5"
    assert at_five.estimates["dpo"].mean == pytest.approx(4 + 0.5)  # of 4 and 5, in the two seeds
    assert "tdpo" not in at_five.estimates  # its line ends at 4
    assert at_five.stretched == []
    usual = frontiers(suite.model_copy(update={"frontier": None}), table)[0].matched
    assert [measure.distance for measure in usual] == [1.8, 3, 5]  # quartiles of 1, 2, 4 and 8
    nearer = suite.model_copy(update={"frontier": Plane(at=(1.5,))})
    assert frontiers(nearer, table)[0].measures[0].stretched == ["dpo"]  # whose nearest run is at 2
    assert volume.estimates["dpo"].mean == pytest.approx(8 * 2 + 2 * 2)
    (difference,) = volume.differences
    assert difference.estimate.mean == pytest.approx((9 * 1 + 6 * 3) - 20)
    assert difference.p_seeds == 0.5
    words = list(sentences(suite, table, differences(suite, table), [], [plane]))
    assert size(suite, table).endswith("10 runs, 10 of them finished.")
    assert words[0].endswith("dpo has most, 4.5 [4, 5]. Without a figure: tdpo.")
    assert "(and 1 with the same mean), with 5.5 [5, 6]" in words[2]

    records[last.key] = {"values": {}, "error": "ValueError: no"}
    table = rows(suite, records)
    assert frontiers(suite, table)[0].measures[1].estimates["tdpo"].count == 1
    assert "9 of them finished, 1 failed" in size(suite, table)
    assert frontiers(suite, rows(suite, {})) == []
