"""Frontiers of reward against distance from the reference, one for each objective and seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import final

import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.differences import Difference, adjusted, comparable, opponents, own_controls, paired
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import hypervolume, most_seeds, shares_at
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Basis, Estimate, Row, Setting, basis, estimates, frame, grouped

ByItem = Mapping[str, float]
Line = Sequence[tuple[float, ByItem]]
"""(distance, reward of each item), the reference first."""

Lines = Mapping[str, Mapping[int, Line]]
"""Of each objective and control, by seed."""

_QUARTERS = (0.25, 0.5, 0.75)
"""Of the way from the nearest common distance to the farthest: where rewards are compared unless the suite says."""


@final
@dataclass(frozen=True, eq=False)
class Measure:
    """A figure of a whole frontier: its words, each compared objective's estimate, and differences.

    distance             at which the reward is read; None for the hypervolume
    values               results frame of what is compared: on the seeds and items that all compared objectives have
    counts               in how many seeds each objective and control has the figure
    estimates            of the compared objectives, all of the same seeds
    differences          from the baseline's, on these seeds too
    control_differences  of masked objectives from their own controls, on the seeds of the two
    """

    words: str
    distance: float | None
    values: pd.DataFrame
    counts: Mapping[str, int]
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

    A frontier is the line through an objective's rows, in the order of their distances. An objective counts in a seed
    where all its runs and the reference are finished. Controls have frontiers of their own.

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
        rest: {name: _lines(suite.seeds, [reference, *rows], points) for name, rows in by_name.items()}
        for rest, by_name in by_setting.items()
    }
    compared = [by_name[name] for by_name in lines.values() for name in suite.objectives if name in by_name]
    distances = [distance for by_seed in compared for line in by_seed.values() for distance, _ in line]
    if not distances:
        return []
    over = basis(values)
    return [
        Frontiers(
            rest,
            {REFERENCE: [reference], **by_name},
            _matched(suite, rest, lines[rest], over),
            _judged([_hypervolume(suite, rest, lines[rest], suite.plane.within or max(distances), over)])[0],
        )
        for rest, by_name in by_setting.items()
    ]


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


def _lines(
    seeds: Sequence[int], rows: Sequence[Row], points: Mapping[tuple[str, Setting, int], tuple[float, ByItem]]
) -> Mapping[int, Line]:
    """Seed -> the points of the rows, in the seeds that have all of them."""
    keys = {seed: [(row.name, row.setting, seed) for row in rows] for seed in seeds}
    return {seed: [points[key] for key in line] for seed, line in keys.items() if all(key in points for key in line)}


def _matched(suite: Suite, setting: Setting, lines: Lines, over: Basis) -> list[Measure]:
    """The rewards at each distance at which an objective is read, that of the headline first, and apart in judgement.

    The headline's is where most objectives are compared on most seeds, the middle one of several such: whatever the
    rewards are.
    """
    at = suite.plane.at or _distances(suite, lines)
    measures = [measure for d in at if (measure := _reward_at(suite, setting, lines, d, over)).estimates]
    if not measures:
        return []
    middle = (len(measures) - 1) / 2
    order = [(-len(m.estimates), -m.seeds, abs(index - middle)) for index, m in enumerate(measures)]
    first = measures.pop(order.index(min(order)))
    return [*_judged([first]), *_judged(measures)]


def _distances(suite: Suite, lines: Lines) -> Sequence[float]:
    """A quarter, half and three quarters of the way from near to far, in logarithms.

    Between them, the baseline and half of the others that moved have runs on both sides of a distance, in most seeds.
    """
    spans = {name: _span(list(lines[name].values())) for name in suite.objectives if lines.get(name)}
    near, far = spans.pop(suite.against, (0.0, math.inf))
    others = [span for span in spans.values() if span[1] > 0]
    if others:
        near = max(near, sorted(low for low, _ in others)[len(others) // 2])
        far = min(far, sorted((high for _, high in others), reverse=True)[len(others) // 2])
    if not 0 < far < math.inf or near > far:
        return ()
    quarters = [near ** (1 - part) * far**part if near > 0 else far * part for part in _QUARTERS]
    return tuple(dict.fromkeys(_rounded(d, near, far) for d in quarters))


def _span(lines: Sequence[Line]) -> tuple[float, float]:
    """From where to where most lines reach, the reference aside."""
    fewer = len(lines) - most_seeds(len(lines))
    near = sorted((min(d for d, _ in line[1:]) for line in lines), reverse=True)[fewer]
    return near, sorted(max(d for d, _ in line[1:]) for line in lines)[fewer]


def _rounded(distance: float, near: float, far: float) -> float:
    """In as few digits, two at least, as it stays within the two in."""
    rounded = (float(f"{distance:.{digits}g}") for digits in range(2, 17))
    return next((d for d in rounded if near <= d <= far), distance)


def _reward_at(suite: Suite, setting: Setting, lines: Lines, distance: float, over: Basis) -> Measure:
    words = f"{suite.plane.reward} at {suite.plane.distance}".replace("_", " ") + f" {distance:g}"
    return _measure(suite, setting, words, distance, lines, partial(_read, distance=distance), over)


def _read(line: Line, distance: float) -> ByItem:
    """The reward of each item at that distance: on the line between the neighbouring runs, item by item.

    Nothing where no run is nearer to the reference, or none further: beyond the runs, frontiers bend unseen.
    """
    runs = line[1:]
    shares = shares_at([x for x, _ in runs], distance)
    if shares is None:
        return {}
    first, *others = (runs[index][1] for index in shares)
    shared = [item for item in first if all(item in other for other in others)]
    return {item: sum(share * runs[index][1][item] for index, share in shares.items()) for item in shared}


def _hypervolume(suite: Suite, setting: Setting, lines: Lines, within: float, over: Basis) -> Measure:
    def volume(line: Line) -> ByItem:
        (_, start), *points = [(distance, fmean(rewards.values())) for distance, rewards in line]
        return {"": hypervolume(points, distance=within, reward=start)}

    words = f"hypervolume to {suite.plane.distance.replace('_', ' ')} {within:.3g}"
    return _measure(suite, setting, words, None, lines, volume, over)


def _measure(
    suite: Suite,
    setting: Setting,
    words: str,
    distance: float | None,
    lines: Lines,
    read: Callable[[Line], ByItem],
    over: Basis,
) -> Measure:
    readings = frame(
        (words, setting, name, seed, item, value)
        for name, by_seed in lines.items()
        for seed, line in by_seed.items()
        for item, value in read(line).items()
    )
    values = comparable(readings[readings["objective"].isin(list(suite.objectives))], suite.against)
    return Measure(
        words,
        distance,
        values,
        readings.groupby("objective")["seed"].nunique().to_dict(),
        {name: figure for (_, _, name), figure in estimates(values, over).items()},
        paired(values, opponents(suite), over),
        paired(readings, own_controls(suite), over),
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
