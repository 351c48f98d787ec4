"""Frontiers of reward against distance from the reference, one for each objective and seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import final

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import hypervolume, shares_at
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import (
    Difference,
    Estimate,
    Row,
    Setting,
    differences,
    estimates,
    frame,
    grouped,
    opponents,
    own_controls,
)

ByItem = Mapping[str, float]
Line = Sequence[tuple[float, ByItem]]
"""(distance, reward of each item), the reference first."""

_QUARTILES = (0.25, 0.5, 0.75)
"""Of the distances of the runs: where rewards are compared unless the suite says where."""


@final
@dataclass(frozen=True)
class Measure:
    """A figure of a whole frontier: its words, each objective's estimate, and differences.

    distance             at which the reward is read; None for the hypervolume
    differences          from the baseline's
    control_differences  of masked objectives from their own controls
    extrapolated         objectives whose reward is read, in some seed, on the straight line from the reference, no run
                         being nearer to it: where frontiers bend, that is too low
    """

    words: str
    distance: float | None
    estimates: Mapping[str, Estimate]
    differences: Sequence[Difference]
    control_differences: Sequence[Difference]
    extrapolated: Sequence[str] = ()


@final
@dataclass(frozen=True)
class Frontiers:
    """The frontiers at one setting of the other sweeps: rows in the order of the suite, and measures of the frontiers.

    A frontier is the line from the reference through an objective's rows, in the order of their distances. An objective
    counts in a seed where all its runs and the reference are finished. Controls have frontiers of their own.
    """

    setting: Setting
    rows: Mapping[str, Sequence[Row]]
    measures: Sequence[Measure]

    @property
    def matched(self) -> list[Measure]:
        """The rewards at the same distance, where at least one is read between two runs."""
        readings = (measure for measure in self.measures if measure.distance is not None)
        return [measure for measure in readings if set(measure.estimates) - set(measure.extrapolated)]


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
    compared = [
        line for by_name in lines.values() for name in suite.objectives for line in by_name.get(name, {}).values()
    ]
    if not compared:
        return []
    baseline = [line for by_name in lines.values() for line in by_name.get(suite.against, {}).values()]
    reach = min((max(distance for distance, _ in line) for line in baseline), default=math.inf)
    at = suite.plane.at or _quartiles([distance for line in compared for distance, _ in line[1:] if distance <= reach])
    farthest = max(distance for line in compared for distance, _ in line)
    return [
        Frontiers(
            rest,
            {REFERENCE: [reference], **by_name},
            [
                *(_reward_at(suite, rest, lines[rest], distance) for distance in at),
                _hypervolume(suite, rest, lines[rest], suite.plane.within or farthest),
            ],
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


def _quartiles(distances: Sequence[float]) -> Sequence[float]:
    """In two digits, of the runs that moved."""
    moved = [distance for distance in distances if distance > 0]
    quartiles = np.quantile(moved, _QUARTILES).tolist() if moved else []
    return tuple(dict.fromkeys(float(f"{distance:.2g}") for distance in quartiles))


def _reward_at(suite: Suite, setting: Setting, lines: Mapping[str, Mapping[int, Line]], distance: float) -> Measure:
    words = f"{suite.plane.reward} at {suite.plane.distance}".replace("_", " ") + f" {distance:.3g}"
    measure = _measure(suite, setting, words, distance, lines, partial(_read, distance=distance))
    extrapolated = [
        name
        for name, by_seed in lines.items()
        if any(0 in (shares_at([x for x, _ in line], distance) or ()) for line in by_seed.values())
    ]
    return replace(measure, extrapolated=extrapolated)


def _read(line: Line, distance: float) -> ByItem:
    """The reward of each item at that distance: on the line between the neighbouring points, item by item."""
    shares = shares_at([x for x, _ in line], distance)
    if shares is None:
        return {}
    first, *others = (line[index][1] for index in shares)
    shared = [item for item in first if all(item in other for other in others)]
    return {item: sum(share * line[index][1][item] for index, share in shares.items()) for item in shared}


def _hypervolume(suite: Suite, setting: Setting, lines: Mapping[str, Mapping[int, Line]], within: float) -> Measure:
    def volume(line: Line) -> ByItem:
        (_, start), *points = [(distance, fmean(rewards.values())) for distance, rewards in line]
        return {"": hypervolume(points, distance=within, reward=start)}

    words = f"hypervolume to {suite.plane.distance.replace('_', ' ')} {within:.3g}"
    return _measure(suite, setting, words, None, lines, volume)


def _measure(
    suite: Suite,
    setting: Setting,
    words: str,
    distance: float | None,
    lines: Mapping[str, Mapping[int, Line]],
    read: Callable[[Line], ByItem],
) -> Measure:
    values = frame(
        (words, setting, name, seed, item, value)
        for name, by_seed in lines.items()
        for seed, line in by_seed.items()
        for item, value in read(line).items()
    )
    return Measure(
        words,
        distance,
        {name: figure for (_, _, name), figure in estimates(values).items()},
        differences(values, opponents(suite)),
        differences(values, own_controls(suite)),
    )
