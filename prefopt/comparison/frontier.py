"""Frontiers of reward against distance from the reference, one for each objective and seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import final

import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.differences import Difference, adjusted, comparable, opponents, own_controls, paired
from prefopt.comparison.distances import common_distances, rank
from prefopt.comparison.interpolation import ByItem, Line, reward_at, straightest_power
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import hypervolume
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Basis, Estimate, Row, Setting, basis, estimates, frame, grouped

Lines = Mapping[str, Mapping[int, Line]]
"""Of each objective and control, by seed: the points of its finished runs, without the reference."""


@final
@dataclass(frozen=True, eq=False)
class Measure:
    """A figure of a whole frontier: its words, each compared objective's estimate, and differences.

    distance             at which the reward is read; None for the hypervolume
    power                of the distance in which lines between runs are straight (see `interpolation`); None for the
                         hypervolume, which has no lines
    values               results frame of what is compared: on the seeds and items that all compared objectives have
    counts               in how many seeds each objective and control has the figure
    incomplete           objective -> in how many of the compared seeds its figure is of some of its runs, the others
                         being missing; those with none are not there
    estimates            of the compared objectives, all of the same seeds
    differences          from the baseline's, on these seeds too
    control_differences  of masked objectives from their own controls, on the seeds of the two
    """

    words: str
    distance: float | None
    power: float | None
    values: pd.DataFrame
    counts: Mapping[str, int]
    incomplete: Mapping[str, int]
    estimates: Mapping[str, Estimate]
    differences: Sequence[Difference]
    control_differences: Sequence[Difference]

    @property
    def seeds(self) -> int:
        """How many seeds the estimates and differences are of."""
        return int(self.values["seed"].nunique())


@final
@dataclass(frozen=True, eq=False)
class Frontiers:
    """The frontiers at one setting of the other sweeps: rows in the order of the suite, and measures of the frontiers.

    A frontier is the line through an objective's finished runs, in the order of their distances. The hypervolume counts
    in a seed where all its runs and the reference are finished. Controls have frontiers of their own.

    matched  rewards at the same distance, that of the headline first; none where no objective is read at any
    volume   the hypervolume
    """

    setting: Setting
    rows: Mapping[str, Sequence[Row]]
    matched: Sequence[Measure]
    volume: Measure

    @property
    def measures(self) -> Sequence[Measure]:
        return (*self.matched, self.volume)


def frontiers(suite: Suite, table: Sequence[Row], values: pd.DataFrame) -> list[Frontiers]:
    """The frontiers at each setting; none where the task has no plane, or nothing is finished."""
    if not suite.has_plane:
        return []
    reference = next(row for row in table if row.name == REFERENCE)
    points = _points(suite, values)
    by_setting: dict[Setting, dict[str, list[Row]]] = {}
    for rest, rows in grouped(suite, table, along=suite.plane.over).items():
        for row in rows:
            by_setting.setdefault(rest, {}).setdefault(row.name, []).append(row)
    lines = {
        rest: {name: {seed: _line(rows, seed, points) for seed in suite.seeds} for name, rows in by_name.items()}
        for rest, by_name in by_setting.items()
    }
    compared = [by_name[name] for by_name in lines.values() for name in suite.objectives if name in by_name]
    distances = [distance for by_seed in compared for line in by_seed.values() for distance, _ in line]
    if not distances:
        return []
    over, within = basis(values), suite.plane.within or max(distances)
    origins = {seed: point for seed in suite.seeds for point in _line([reference], seed, points)}
    planes = []
    for rest, by_name in by_setting.items():
        planned = {name: len(rows) for name, rows in by_name.items()}
        plane = _Plane(suite, rest, lines[rest], planned, origins, over)
        rows_by_name = {REFERENCE: [reference], **by_name}
        planes.append(Frontiers(rest, rows_by_name, plane.matched(), plane.hypervolume(within)))
    return planes


def _points(suite: Suite, values: pd.DataFrame) -> dict[tuple[str, Setting, int], tuple[float, ByItem]]:
    """(objective, setting, seed) -> mean distance, and reward of each item."""
    distances, rewards = (
        dict(iter(values[values["metric"] == metric].groupby(["objective", "setting", "seed"])))
        for metric in (suite.plane.distance, suite.plane.reward)
    )
    return {
        key: (fmean(distances[key]["value"]), dict(zip(lines["item"], lines["value"], strict=True)))
        for key, lines in rewards.items()
        if key in distances
    }


def _line(rows: Sequence[Row], seed: int, points: Mapping[tuple[str, Setting, int], tuple[float, ByItem]]) -> Line:
    """The points of the rows that are finished in the seed."""
    keys = [(row.name, row.setting, seed) for row in rows]
    return [points[key] for key in keys if key in points]


@final
@dataclass(frozen=True, eq=False)
class _Plane:
    """What is measured at one setting.

    planned  how many runs each objective and control has in a seed, finished or not
    origins  the reference's point, by seed
    """

    suite: Suite
    setting: Setting
    lines: Lines
    planned: Mapping[str, int]
    origins: Mapping[int, tuple[float, ByItem]]
    over: Basis

    @cached_property
    def power(self) -> float:
        return straightest_power([line for by_seed in self.lines.values() for line in by_seed.values()])

    def matched(self) -> list[Measure]:
        """The rewards at each distance at which an objective is read, that of the headline first, and apart in
        judgement.

        The headline's has the first rank (see `distances.rank`), the middle one of several such: whatever the rewards
        are.
        """
        suite = self.suite
        at = suite.plane.at or common_distances(self._spans(), suite.against)
        measures = [measure for distance in at if (measure := self._reward_at(distance)).estimates]
        if not measures:
            return []
        middle = (len(measures) - 1) / 2
        ranks = [rank(m.estimates, set(m.values["seed"]), len(suite.seeds), suite.against) for m in measures]
        first = measures.pop(max(range(len(measures)), key=lambda index: (ranks[index], -abs(index - middle))))
        return [*_judged([first]), *_judged(measures)]

    def hypervolume(self, within: float) -> Measure:
        def volume(name: str, seed: int) -> ByItem:
            line = self.lines[name][seed]
            if seed not in self.origins or len(line) < self.planned[name]:
                return {}
            points = [(distance, fmean(rewards.values())) for distance, rewards in line]
            start = fmean(self.origins[seed][1].values())
            return {"": hypervolume(points, distance=within, reward=start)}

        words = f"hypervolume to {self.suite.plane.distance} {within:.3g}".replace("_", " ")
        return _judged([self._measure(words, None, volume)])[0]

    def _spans(self) -> dict[str, dict[int, tuple[float, float]]]:
        """Of each objective, by seed: the distances of the nearest and the farthest run."""
        distances = {
            name: {seed: [distance for distance, _ in line] for seed, line in self.lines[name].items() if line}
            for name in self.suite.objectives
            if name in self.lines
        }
        return {name: {seed: (min(d), max(d)) for seed, d in by_seed.items()} for name, by_seed in distances.items()}

    def _reward_at(self, distance: float) -> Measure:
        words = f"{self.suite.plane.reward} at {self.suite.plane.distance}".replace("_", " ") + f" {distance:g}"
        return self._measure(
            words, distance, lambda name, seed: reward_at(self.lines[name][seed], distance, self.power)
        )

    def _measure(self, words: str, distance: float | None, read: Callable[[str, int], ByItem]) -> Measure:
        readings = frame(
            (words, self.setting, name, seed, item, value)
            for name, by_seed in self.lines.items()
            for seed in by_seed
            for item, value in read(name, seed).items()
        )
        suite = self.suite
        values = comparable(readings[readings["objective"].isin(list(suite.objectives))], suite.against)
        figures = {name: figure for (_, _, name), figure in estimates(values, self.over).items()}
        seeds = set(values["seed"])
        incomplete = {
            name: sum(len(line) < self.planned[name] for seed, line in self.lines[name].items() if seed in seeds)
            for name in figures
        }
        return Measure(
            words,
            distance,
            None if distance is None else self.power,
            values,
            readings.groupby("objective")["seed"].nunique().to_dict(),
            {name: count for name, count in incomplete.items() if count},
            figures,
            paired(values, opponents(suite), self.over),
            paired(readings, own_controls(suite), self.over),
        )


def _judged(measures: Sequence[Measure]) -> list[Measure]:
    """The measures with their differences adjusted for all of theirs together."""
    from_baseline = adjusted([d for measure in measures for d in measure.differences])
    from_controls = adjusted([d for measure in measures for d in measure.control_differences])
    return [
        replace(
            measure,
            differences=[d for d in from_baseline if d.metric == measure.words],
            control_differences=[d for d in from_controls if d.metric == measure.words],
        )
        for measure in measures
    ]
