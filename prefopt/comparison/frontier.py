"""Frontiers of reward against distance from the reference, one for each objective and seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import final

import torch

from prefopt.comparison.run import REFERENCE
from prefopt.comparison.run_log import Record
from prefopt.comparison.statistics import hypervolume, shares_at
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import (
    Difference,
    Estimate,
    Row,
    Setting,
    compared,
    estimate,
    grouped,
    items,
    opponents,
    own_controls,
)

__all__ = ["Frontiers", "Measure", "frontiers"]

ByItem = Mapping[str, float]
Line = Sequence[tuple[float, ByItem]]
"""(distance, reward of each item), the reference first."""
_QUARTILES = (0.25, 0.5, 0.75)
"""Of the distances of the runs: where rewards are compared unless the suite says where."""


@final
@dataclass(frozen=True)
class Measure:
    """A figure of a whole frontier: its words, each objective's estimate, and differences.

    distance     where the reward is read; None for the hypervolume
    differences  from the baseline's
    of_masks     of masked objectives from their own controls
    stretched    whose reward there is read, in some seed, on the straight line from the reference, no run being nearer
                 to it: where frontiers bend, that is too low
    """

    words: str
    distance: float | None
    estimates: Mapping[str, Estimate]
    differences: Sequence[Difference]
    of_masks: Sequence[Difference]
    stretched: Sequence[str] = ()


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
        """The rewards at the same distance, as far as any objective has one."""
        return [measure for measure in self.measures if measure.distance is not None and measure.estimates]


def frontiers(suite: Suite, table: Sequence[Row]) -> list[Frontiers]:
    """None where the task has no plane, or nothing is finished."""
    if not suite.has_plane:
        return []
    reference = next(row for row in table if row.name == REFERENCE)
    sides = {rest: _by_name(rows) for rest, rows in grouped(suite, table, along=suite.plane.over).items()}
    lines = {rest: {n: _lines(suite, reference, of) for n, of in by_name.items()} for rest, by_name in sides.items()}
    each_line = [
        line for by_name in lines.values() for name in suite.objectives for line in by_name.get(name, {}).values()
    ]
    if not each_line:
        return []
    at = suite.plane.at or _usual([distance for line in each_line for distance, _ in line[1:]], _reach(suite, lines))
    farthest = max(distance for line in each_line for distance, _ in line)
    return [
        Frontiers(
            rest,
            {REFERENCE: [reference], **by_name},
            [*_matched(suite, rest, lines[rest], at), _volume(suite, rest, lines[rest], farthest)],
        )
        for rest, by_name in sides.items()
    ]


def _by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.name, []).append(row)
    return found


def _lines(suite: Suite, reference: Row, rows: Sequence[Row]) -> Mapping[int, Line]:
    """Seed -> the reference's point and those of the rows."""
    found = {}
    for seed in suite.seeds:
        places = [_point(suite, row.finished[seed]) for row in (reference, *rows) if seed in row.finished]
        known = [place for place in places if place is not None]
        if len(known) == len(rows) + 1:
            found[seed] = known
    return found


def _point(suite: Suite, record: Record) -> tuple[float, ByItem] | None:
    distances, rewards = (items(record, metric) for metric in (suite.plane.distance, suite.plane.reward))
    return (fmean(distances.values()), rewards) if distances and rewards else None


def _reach(suite: Suite, lines: Mapping[Setting, Mapping[str, Mapping[int, Line]]]) -> float:
    """How far the baseline goes in every seed."""
    known = [line for by_name in lines.values() for line in by_name.get(suite.against, {}).values()]
    return min((max(distance for distance, _ in line) for line in known), default=math.inf)


def _usual(distances: Sequence[float], reach: float) -> Sequence[float]:
    """The quartiles of the runs' distances that the baseline reaches, in two digits."""
    within = [distance for distance in distances if 0 < distance <= reach]
    if not within:
        return ()
    found = torch.tensor(within, dtype=torch.float64).quantile(torch.tensor(_QUARTILES, dtype=torch.float64))
    return tuple(dict.fromkeys(float(f"{distance:.2g}") for distance in found.tolist()))


def _matched(
    suite: Suite, setting: Setting, lines: Mapping[str, Mapping[int, Line]], at: Sequence[float]
) -> list[Measure]:
    named = f"{suite.plane.reward} at {suite.plane.distance}".replace("_", " ")
    return [
        replace(
            _measured(suite, setting, f"{named} {place:.3g}", place, lines, partial(_at, distance=place)),
            stretched=[
                name for name, by_seed in lines.items() if any(_from_start(of, place) for of in by_seed.values())
            ],
        )
        for place in at
    ]


def _from_start(line: Line, distance: float) -> bool:
    """Whether the point at that distance lies between the reference and the run next to it."""
    return 0 in (shares_at([place for place, _ in line], distance) or ())


def _at(line: Line, distance: float) -> ByItem | None:
    """The reward of each item at that distance: on the line between the neighbouring points, item by item."""
    shares = shares_at([place for place, _ in line], distance)
    if shares is None:
        return None
    first, *others = (line[index][1] for index in shares)
    shared = [item for item in first if all(item in other for other in others)]
    return {item: sum(share * line[index][1][item] for index, share in shares.items()) for item in shared} or None


def _volume(suite: Suite, setting: Setting, lines: Mapping[str, Mapping[int, Line]], reached: float) -> Measure:
    within = suite.plane.within or reached
    words = f"hypervolume to {suite.plane.distance.replace('_', ' ')} {within:.3g}"

    def volume(line: Line) -> ByItem:
        (_, start), *points = [(distance, fmean(rewards.values())) for distance, rewards in line]
        return {words: hypervolume(points, distance=within, reward=start)}

    return _measured(suite, setting, words, None, lines, volume)


def _measured(
    suite: Suite,
    setting: Setting,
    words: str,
    distance: float | None,
    lines: Mapping[str, Mapping[int, Line]],
    measure: Callable[[Line], ByItem | None],
) -> Measure:
    found = {
        name: {seed: of_items for seed, line in by_seed.items() if (of_items := measure(line)) is not None}
        for name, by_seed in lines.items()
    }
    known = {name: estimate([list(of.values()) for of in by_seed.values()]) for name, by_seed in found.items()}
    by_item = distance is not None
    return Measure(
        words,
        distance,
        {name: each for name, each in known.items() if each is not None},
        compared(words, setting, found, opponents(suite), of_items=by_item),
        compared(words, setting, found, own_controls(suite), of_items=by_item),
    )
