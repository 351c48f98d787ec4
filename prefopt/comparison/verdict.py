"""The verdict of a comparison: which objective is best and what is told from chance, by paired differences alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.differences import Difference, adjusted, comparable, opponents, paired
from prefopt.comparison.frontier import Frontiers, Measure
from prefopt.comparison.results import Results
from prefopt.comparison.statistics import seeds_to_tell
from prefopt.comparison.summary import Basis, Estimate, Row, Setting, basis, estimates
from prefopt.tasks.base import Metric

Key = TypeVar("Key", str, Row)


@final
@dataclass(frozen=True)
class Standing:
    """An objective's rank, by its place among the others: its name, setting (where it was chosen) and figure."""

    name: str
    setting: Setting
    estimate: Estimate


@final
@dataclass(frozen=True, eq=False)
class Verdict:
    """What a comparison says in one figure.

    Standings, differences and rivals are of the same seeds and items, which all objectives in them have: so the order
    of the standings is that of the differences.

    metric       the figure
    distance     from the reference, at which it is compared; None: at any, each objective at its best setting
    setting      of the other sweeps
    measure      what is compared at the distance
    standings    best first
    differences  of the objectives from the baseline, adjusted for their number
    rivals       differences of the others from the first
    missing      objectives that are not compared -> in how many seeds they have the figure
    seeds        how many the comparison is of
    """

    metric: Metric
    distance: float | None
    setting: Setting
    measure: Measure | None
    standings: Sequence[Standing]
    differences: Sequence[Difference]
    rivals: Sequence[Difference]
    missing: Mapping[str, int]
    seeds: int

    @property
    def nothing_differs(self) -> bool:
        """Whether all objectives have the same figure on every seed and item."""
        return all(rival.estimate.is_zero for rival in self.rivals)

    @property
    def best(self) -> str | None:
        """The objective that can be told from every other, as the better one."""
        first = self.standings[0].name if len(self.standings) > 1 else None
        against = [d for d in self.differences if first in (d.name, d.against)]
        return first if all(d.told for d in (*self.rivals, *against)) else None

    @property
    def told(self) -> Sequence[Difference]:
        """The differences from the baseline that can be told from chance."""
        return [d for d in self.differences if d.told]

    @property
    def contest(self) -> Difference | None:
        """The difference that the verdict turns on: of the first from the baseline, or of the second where the baseline
        is the first. Of the first from the second where the baseline is not compared."""
        names = [standing.name for standing in self.standings[:2]]
        against_baseline = next((d for name in names for d in self.differences if d.name == name), None)
        return against_baseline or next(iter(self.rivals), None)

    @property
    def enough_seeds(self) -> int | None:
        """About how many seeds tell a contest such as this from chance (see `seeds_to_tell`)."""
        if self.contest is None or self.contest.estimate.over == "items":
            return None
        return seeds_to_tell(self.contest.by_seed, comparisons=max(1, len(self.differences)))


def verdict(results: Results) -> Verdict | None:
    """At the same distance from the reference where several objectives are compared there; else each at its best
    setting. None where no two objectives have the figure, nor one.
    """
    for plane in results.planes:
        if plane.matched and len(plane.matched[0].estimates) > 1:
            return _at_one_distance(results, plane, plane.matched[0])
    return _at_best_settings(results)


def _at_one_distance(results: Results, plane: Frontiers, measure: Measure) -> Verdict:
    metric = _metric(results)
    ranked = _ranked(metric, measure.estimates)
    standings = [Standing(name, (), measure.estimates[name]) for name in ranked]
    rivals = _rivals(measure.values, ranked, basis(results.values), {})
    missing = {name: measure.counts.get(name, 0) for name in results.suite.objectives if name not in ranked}
    at = (measure.distance, plane.setting, measure)
    return Verdict(metric, *at, standings, measure.differences, rivals, missing, measure.seeds)


def _at_best_settings(results: Results) -> Verdict | None:
    """The setting of each objective is chosen by the figure itself: differences are adjusted for that, too."""
    suite, metric, over = results.suite, _metric(results), basis(results.values)
    rows: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.name in suite.objectives and metric.name in row.metrics:
            rows.setdefault(row.name, []).append(row)
    if not rows:
        return None
    best = {name: _ranked(metric, {row: row.metrics[metric.name] for row in rows[name]})[0] for name in rows}
    lines = results.values[results.values["metric"] == metric.name]
    chosen = [
        name in best and best[name].setting == setting
        for name, setting in zip(lines["objective"], lines["setting"], strict=True)
    ]
    values = comparable(lines[chosen].assign(setting=[()] * sum(chosen)), suite.against)
    figures = {name: estimate for (_, _, name), estimate in estimates(values, over).items()}
    if not figures:
        return None
    ranked = _ranked(metric, figures)
    standings = [Standing(name, best[name].setting, figures[name]) for name in ranked]
    tries = {name: len(rows[name]) * len(rows.get(suite.against, "-")) for name in ranked}
    differences = adjusted(paired(values, opponents(suite), over), tries)
    rivals = _rivals(values, ranked, over, {name: len(rows[name]) * len(rows[ranked[0]]) for name in ranked})
    missing = {
        name: best[name].metrics[metric.name].count if name in best else 0
        for name in suite.objectives
        if name not in ranked
    }
    seeds = int(values["seed"].nunique())
    return Verdict(metric, None, (), None, standings, differences, rivals, missing, seeds)


def _metric(results: Results) -> Metric:
    return next(metric for metric in results.suite.metrics if metric.name == results.suite.plane.reward)


def _ranked(metric: Metric, figures: Mapping[Key, Estimate]) -> list[Key]:
    """The best first."""
    return sorted(figures, key=lambda key: figures[key].mean, reverse=metric.better != "lower")


def _rivals(values: pd.DataFrame, ranked: Sequence[str], over: Basis, tries: Mapping[str, int]) -> list[Difference]:
    """The differences of the others from the first, each judged alone: that all are told is asked of the best."""
    first, *others = ranked
    differences = {d.name: d for d in paired(values, dict.fromkeys(others, first), over)}
    return [adjusted([differences[name]], tries)[0] for name in others]
