"""The figures of a comparison, by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from prefopt.comparison.differences import comparable, differences
from prefopt.comparison.results import Results
from prefopt.comparison.suite import Suite
from prefopt.comparison.suite_fields import Plane
from prefopt.comparison.summary import Setting, basis, estimate, estimates, frame
from prefopt.report.further import sentences, size
from prefopt.report.headline import headline, notes
from tests.comparison.made import made


def test_an_interval_is_over_seeds_or_over_the_items_of_one() -> None:
    several = estimate([[1.0, 3.0], [4.0]], "seeds")
    assert (several.mean, several.over, several.count) == (3, "seeds", 2)
    assert (several.low, several.high) == (pytest.approx(3 - 12.706, abs=1e-3), pytest.approx(3 + 12.706, abs=1e-3))
    one = estimate([[1.0, 3.0]], "items")
    assert (one.mean, one.low, one.over, one.count) == (2, pytest.approx(2 - 12.706, abs=1e-3), "items", 1)
    assert estimate([[2.0]], "items").low is None
    assert estimate([[1.0, 3.0]], "seeds").low is None  # one kind of interval in a frame


def test_a_frame_of_several_seeds_has_no_intervals_over_items() -> None:
    lines = [("m", (), "all", seed, item, seed + len(item)) for seed in (0, 1) for item in ("a", "bb")]
    values = frame([*lines, ("m", (), "one", 0, "a", 1.0), ("m", (), "one", 0, "bb", 2.0)])
    figures = estimates(values, basis(values))
    assert (figures["m", (), "all"].over, figures["m", (), "one"].over) == ("seeds", "seeds")
    assert figures["m", (), "one"].low is None
    assert basis(frame(lines[:2])) == "items"


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
    assert better.p_items == 2 / 8  # items 1, 1, 3: two of the eight changes of sign
    assert better.p_t == pytest.approx(2 * math.atan(1 / 2) / math.pi)  # t = 2 of one degree of freedom
    assert (better.p_signs, better.p) == (0.5, pytest.approx(2 * better.p_t))
    assert (worse.estimate.mean, worse.p_items, worse.p_t, worse.p_signs, worse.p) == (-1, 0.5, None, 1, 1)
    assert [better.told, worse.told] == [False, False]
    assert differences(frame(("m", (), *line) for line in lines if line[0] == "base"), {}) == []
    of_seeds = frame(("m", (), name, seed, "", 1.0) for name in ("base", "better") for seed in (0, 1))
    assert [(d.p_items, d.p) for d in differences(of_seeds, against)] == [(None, 1)]


def test_of_one_seed_differences_are_judged_over_items() -> None:
    lines = [
        ("m", (), name, 0, str(item), item * (name == "better")) for name in ("base", "better") for item in range(8)
    ]
    (difference,) = differences(frame(lines), {"better": "base"})
    assert (difference.estimate.over, difference.p, difference.told) == ("items", 2 / 2**7, True)  # one item is equal


def test_a_figure_that_is_not_finite_is_left_out_and_named(tmp_path: Path) -> None:
    suite = made(tmp_path)
    whole = Results.load(tmp_path)
    name = suite.against
    records = {key: {**record} for key, record in whole.records.items()}
    lacking = next(record for record in records.values() if record["name"] == name and record["seed"] == suite.seeds[0])
    metric = suite.plane.reward
    item = next(iter(lacking["values"][metric]))
    lacking["values"] = lacking["values"] | {metric: lacking["values"][metric] | {item: math.nan}}
    results = Results.compute(suite, records)
    assert results.values["value"].notna().all()
    assert len(results.values) == len(whole.values) - len(lacking["values"][metric])
    assert "nan" not in headline(results)
    told = [note for note in notes(results) if "not finite" in note]
    assert len(told) == 1
    assert f"{name}, " in told[0]
    assert f", seed {suite.seeds[0]}" in told[0]
    assert not [note for note in notes(whole) if "not finite" in note]


def test_one_objective_that_misses_seeds_is_not_compared() -> None:
    def lines(name: str, seeds: Iterable[int]) -> list[tuple[str, Setting, str, int, str, float]]:
        return [("m", (), name, seed, item, 1.0) for seed in seeds for item in "ab"]

    every = [*lines("base", range(8)), *lines("most", range(1, 8)), *lines("some", range(7)), *lines("few", range(3))]
    values = comparable(frame(every), "base")
    assert set(values["objective"]) == {"base", "most", "some"}
    assert set(values["seed"]) == set(range(1, 7))
    without_item = values[(values["objective"] != "most") | (values["seed"] != 2) | (values["item"] != "a")]
    assert len(comparable(without_item, "base")) == len(values) - 3
    assert set(comparable(frame([*lines("a", range(6)), *lines("b", range(2))]), "absent")["objective"]) == {"a"}
    assert len(comparable(frame([]), "base")) == 0


@pytest.mark.slow
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
    assert at_five.estimates["dpo"].mean == pytest.approx(
        3 + 2 * (5**0.5 - 2**0.5) / (8**0.5 - 2**0.5) + 0.5
    )  # over two seeds
    assert "tdpo" not in at_five.estimates  # its line ends at 4
    assert at_five.counts == {"dpo": 2}
    usual = Results.compute(suite.model_copy(update={"frontier": None}), records).planes[0].matched
    assert [measure.distance for measure in usual] == [2.8, 2.4, 3.4]  # between 2 and 4, the middle one first
    assert all(measure.seeds == 2 and list(measure.estimates) == ["dpo", "tdpo"] for measure in usual)
    nearer = suite.model_copy(update={"frontier": Plane(at=(1.5,))})
    assert list(Results.compute(nearer, records).planes[0].matched[0].counts) == ["tdpo"]  # dpo's nearest run is at 2
    assert volume.estimates["dpo"].mean == pytest.approx(8 * 2 + 2 * 2)
    (difference,) = volume.differences
    assert difference.estimate.mean == pytest.approx((9 * 1 + 6 * 3) - 20)
    assert difference.p_signs == difference.p == 0.5  # equal in the two seeds
    words = list(sentences(results))
    assert size(results).endswith("10 runs, 10 of them finished.")
    assert words[0].endswith(", on 2 seeds: tdpo has most, 27; told from dpo: none.")
    assert "reward (higher is better): from 2 (tdpo, beta 1.0" in words[1]

    records[last.key] = {"values": {}, "error": "ValueError: no"}
    results = Results.compute(suite, records)
    assert results.planes[0].volume.counts == {"dpo": 2, "tdpo": 1}
    assert "9 of them finished, 1 failed" in size(results)
    assert Results.compute(suite, {}).planes == []
