"""The verdict: its order is that of the paired differences, and it is wrong no more often than it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pytest

from benchmarks.verdicts import SCENARIOS, Scenario, share
from prefopt.comparison.results import Results
from prefopt.comparison.suite import Suite
from prefopt.comparison.verdict import verdict
from prefopt.report.headline import headline, notes
from prefopt.report.terminal import as_json, as_text

BETA = "objective.beta"
Line = Sequence[tuple[float, float]]
"""(distance, reward) of the runs, the greatest beta first."""


def suite_of(*names: str, seeds: int, **changes: Any) -> Suite:
    # Equal objectives would have equal runs.
    objectives = {name: {"zoo": "dpo", "training": {"weight_decay": 0.1 * n}} for n, name in enumerate(names)}
    fields = {"task": "planted", "objectives": objectives, "sweeps": {BETA: [1.0, 0.1]}, "seeds": list(range(seeds))}
    return Suite.model_validate(fields | changes)


def results_of(suite: Suite, lines: Mapping[tuple[str, int], Line]) -> Results:
    """Of frontiers by objective and seed; of two items, one of which has a reward one higher."""
    records: dict[str, Any] = {}
    for run in suite.runs():
        line = lines.get((run.name, run.seed), ()) if run.objective is not None else [(0.0, 0.0)]
        index = suite.sweeps[BETA].index(run.setting[BETA]) if run.setting else 0
        if index < len(line):
            distance, reward = line[index]
            values = {"sequence_kl": {"a": distance, "b": distance}, "reward": {"a": reward - 0.5, "b": reward + 0.5}}
            records[run.key] = {"values": values, "error": None}
        else:
            records[run.key] = {"values": {}, "error": "RuntimeError: no"}
    return Results.compute(suite, records)


@pytest.mark.slow
def test_a_seed_that_one_objective_alone_reaches_does_not_count() -> None:
    """Seed 1 is hard and seed 0 easy; at distance 4 the masked objective has only the easy one, where it is worse."""
    lines = {
        ("dpo", 0): [(2.0, 1.0), (8.0, 2.5)],
        ("masked", 0): [(2.0, 0.9), (8.0, 2.4)],
        ("dpo", 1): [(2.0, -1.0), (8.0, -0.5)],
        ("masked", 1): [(1.0, -0.5), (3.0, 0.0)],
    }
    results = results_of(suite_of("dpo", "masked", seeds=2, frontier={"at": [4.0]}), lines)
    (plane,) = results.planes
    assert {name: figure.mean for name, figure in plane.matched[0].estimates.items()} == {
        "dpo": pytest.approx(2**0.5 - 1)
    }
    assert plane.matched[0].counts == {"dpo": 2, "masked": 1}
    judged = verdict(results)
    assert judged is not None
    assert judged.distance is None  # nothing is compared there
    usual = results_of(suite_of("dpo", "masked", seeds=2), lines)
    judged = verdict(usual)
    assert judged is not None
    assert judged.distance is not None
    assert 2 <= judged.distance <= 3  # where both have runs on both sides, in both seeds
    assert judged.seeds == 2


@pytest.mark.parametrize("better", ["dpo", "masked"])
def test_the_order_is_that_of_the_paired_differences(better: str) -> None:
    """Of seven seeds, the masked objective misses the one that is easiest, by far."""
    lines: dict[tuple[str, int], Line] = {}
    for seed in range(7):
        easy = 20.0 if seed == 6 else 0.1 * seed
        for name in ("dpo", "masked"):
            gain = 0.3 + 0.01 * seed if name == better else 0.0
            far = 8.0 if (name, seed) != ("masked", 6) else 3.0
            lines[name, seed] = [(2.0, easy + gain), (far, easy + gain + 1.0)]
    results = results_of(suite_of("dpo", "masked", seeds=7, frontier={"at": [4.0]}), lines)
    judged = verdict(results)
    assert judged is not None
    assert judged.standings[0].name == judged.best == better
    (difference,) = judged.differences
    by_name = {standing.name: standing.estimate for standing in judged.standings}
    assert difference.estimate.mean == pytest.approx(by_name["masked"].mean - by_name["dpo"].mean)
    assert judged.seeds == difference.estimate.count == by_name["dpo"].count == by_name["masked"].count == 6
    assert difference.estimate.mean == pytest.approx(0.325 if better == "masked" else -0.325)
    assert {figure.over for figure in by_name.values()} == {"seeds"}
    assert f"At sequence kl 4 from the reference, {better} has the highest reward, " in headline(results)
    assert "on the same 6 seeds" in headline(results)
    assert "Compared on 6 of 7 seeds" in " ".join(notes(results))


@pytest.mark.slow
def test_where_nothing_differs_there_is_no_verdict() -> None:
    lines = {(name, seed): [(1.0, 0.0), (4.0, 0.0)] for name in ("dpo", "masked") for seed in range(6)}
    results = results_of(suite_of("dpo", "masked", seeds=6), lines)
    assert headline(results) == "At sequence kl 2 from the reference, nothing differs: dpo and masked have reward 0."


@pytest.mark.slow
def test_few_seeds_tell_nothing_and_the_page_says_how_many_would() -> None:
    def drawn(seeds: int) -> Results:
        gains = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0]
        lines = {
            (name, seed): [(1.0, gain * (name == "masked")), (4.0, 2 * gain * (name == "masked"))]
            for name in ("dpo", "masked")
            for seed, gain in enumerate(gains[:seeds])
        }
        return results_of(suite_of("dpo", "masked", seeds=seeds), lines)

    few = headline(drawn(3))
    assert "no objective can be told from dpo; masked has the highest reward" in few
    assert "3 seeds cannot tell objectives apart: no p over them is below 0.25, and 6 are the fewest" in few
    assert "about 6 would tell such a difference in four of five comparisons" in few
    assert "masked has the highest reward, 1.41 [" in headline(drawn(6))
    assert "and can be told from the other, dpo" in headline(drawn(6))
    one = headline(drawn(1))
    assert "over held-out items, of these trained policies alone" in one
    assert "One seed says nothing of another training" in one


def test_where_every_run_failed_nothing_is_said() -> None:
    results = results_of(suite_of("dpo", "masked", seeds=2), {})
    assert verdict(results) is None
    assert headline(results) == "Nothing is measured yet."
    assert list(notes(results)) == []
    assert as_text(results).startswith("Nothing is measured yet.")
    empty = Results.compute(results.suite, {})
    assert verdict(empty) is None
    assert json.loads(as_json(empty))["verdict"] is None


def test_an_objective_that_misses_seeds_does_not_take_them_from_others() -> None:
    lines: dict[tuple[str, int], Line] = {
        (name, seed): [(1.0, gain + 0.01 * seed * gain), (4.0, 1 + gain)]
        for name, gain in (("dpo", 0.0), ("better", 1.0), ("failed", 2.0))
        for seed in range(6)
        if (name, seed) != ("failed", 3)
    }
    results = results_of(suite_of("dpo", "better", "failed", seeds=6), lines)
    judged = verdict(results)
    assert judged is not None
    assert (judged.best, judged.missing, judged.seeds) == ("better", {"failed": 5}, 6)
    assert "failed (5 of 6 seeds)" in " ".join(notes(results))


def test_without_a_common_distance_each_is_taken_at_its_best_setting() -> None:
    lines: dict[tuple[str, int], Line] = {
        (name, seed): [(near, 1.0 + 0.01 * seed * (gain > 0)), (far, 1.5 + gain)]
        for name, near, far, gain in (("dpo", 1.0, 2.0, 0.0), ("masked", 5.0, 9.0, 1.0))
        for seed in range(6)
    }
    results = results_of(suite_of("dpo", "masked", seeds=6), lines)
    judged = verdict(results)
    assert judged is not None
    assert (judged.distance, judged.standings[0].name) == (None, "masked")
    assert judged.standings[0].setting == ((BETA, "0.1"),)
    assert fmean(judged.differences[0].by_seed) == pytest.approx(1.0)
    assert judged.differences[0].p == pytest.approx(
        4 * 2 / 2**6
    )  # equal in all seeds: of sign flips, for 2 x 2 settings
    assert "Not at the same distance from the reference: sequence kl is masked 9, dpo 2." in list(notes(results))


@pytest.mark.slow
@pytest.mark.parametrize(("suites", "most"), [(1, 3), pytest.param(5, 6, marks=pytest.mark.long)])
def test_a_verdict_on_a_known_truth_is_wrong_no_more_often_than_it_says(suites: int, most: int) -> None:
    """Of so many simulated suites of each scenario, in which nothing differs, or one is better; all of them in a
    thousand are in `benchmarks/results`. P(X > 6) < 0.02 for X ~ Binomial(50, 0.05), P(X > 3) < 0.002 for 10."""
    scenarios = [scenario for scenario in SCENARIOS.values() if scenario.words != SCENARIOS["one better"].words]
    counts = [share(scenario, suites) for scenario in scenarios]
    assert sum(count.suites for count in counts) >= 10 * suites
    assert sum(count.wrong for count in counts) <= most
    assert sum(count.claims for count in counts) <= most


@pytest.mark.slow
def test_a_better_objective_is_named() -> None:
    counts = share(Scenario("one of two is better by far", worth=(3.0, 5.0)), 5)
    assert (counts.named, counts.wrong, counts.claims) == (5, 0, 0)
