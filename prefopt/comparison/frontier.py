"""Frontiers of reward against distance from the reference, one for each objective and seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import final

from prefopt.comparison.records import Record
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import at_distance, hypervolume
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Estimate, Row, Setting, compared, estimate, items

__all__ = ["Frontiers", "Measure", "frontiers"]

Point = tuple[float, float]
"""(distance, reward)"""


@final
@dataclass(frozen=True)
class Measure:
    """A figure of a whole frontier: its words, each objective's estimate, and differences from the baseline's."""

    words: str
    estimates: Mapping[str, Estimate]
    differences: Sequence[Difference]


@final
@dataclass(frozen=True)
class Frontiers:
    """The frontiers at one setting of the other sweeps: rows in the order of the suite, and measures of the frontiers.

    A frontier is the line from the reference through an objective's rows, in the order of their distances. An objective
    counts in a seed where all its runs and the reference are finished.
    """

    setting: Setting
    rows: Mapping[str, Sequence[Row]]
    measures: Sequence[Measure]


def frontiers(suite: Suite, table: Sequence[Row]) -> list[Frontiers]:
    """None where the task has no plane, or nothing is finished."""
    if not suite.has_plane:
        return []
    reference = next(row for row in table if row.name == REFERENCE)
    grouped: dict[Setting, dict[str, list[Row]]] = {}
    for row in table:
        if row.name != REFERENCE and row.control is None:
            rest = tuple(each for each in row.setting if each[0] != suite.plane.over)
            grouped.setdefault(rest, {}).setdefault(row.name, []).append(row)
    lines = {rest: {n: _lines(suite, reference, of) for n, of in by_name.items()} for rest, by_name in grouped.items()}
    each_line = [line for by_name in lines.values() for by_seed in by_name.values() for line in by_seed.values()]
    if not each_line:
        return []
    measures = _measures(suite, each_line)
    return [
        Frontiers(
            rest,
            {REFERENCE: [reference], **by_name},
            [_measured(suite, rest, words, measure, lines[rest]) for words, measure in measures.items()],
        )
        for rest, by_name in grouped.items()
    ]


def _lines(suite: Suite, reference: Row, rows: Sequence[Row]) -> dict[int, list[Point]]:
    """Seed -> the reference's point and those of the rows."""
    found = {}
    for seed in suite.seeds:
        places = [_point(suite, row.finished[seed]) for row in (reference, *rows) if seed in row.finished]
        known = [place for place in places if place is not None]
        if len(known) == len(rows) + 1:
            found[seed] = known
    return found


def _point(suite: Suite, record: Record) -> Point | None:
    parts = [items(record, metric).values() for metric in (suite.plane.distance, suite.plane.reward)]
    return (fmean(parts[0]), fmean(parts[1])) if all(parts) else None


def _measures(suite: Suite, lines: Sequence[Sequence[Point]]) -> dict[str, Callable[[Sequence[Point]], float | None]]:
    farthest = [max(distance for distance, _ in line) for line in lines]
    at = suite.plane.at or (min(farthest) / 2,)
    within = suite.plane.within or max(farthest)
    reward, distance = suite.plane.reward, suite.plane.distance.replace("_", " ")
    found: dict[str, Callable[[Sequence[Point]], float | None]] = {
        f"{reward} at {distance} {place:.3g}": lambda line, place=place: at_distance(line, place)  # type: ignore[misc]
        for place in at
    }
    found[f"hypervolume to {distance} {within:.3g}"] = lambda line: hypervolume(
        line[1:], distance=within, reward=line[0][1]
    )
    return found


def _measured(
    suite: Suite,
    setting: Setting,
    words: str,
    measure: Callable[[Sequence[Point]], float | None],
    lines: Mapping[str, Mapping[int, Sequence[Point]]],
) -> Measure:
    found = {
        name: {seed: {words: value} for seed, line in by_seed.items() if (value := measure(line)) is not None}
        for name, by_seed in lines.items()
    }
    known = {name: estimate([list(of.values()) for of in by_seed.values()]) for name, by_seed in found.items()}
    return Measure(
        words,
        {name: each for name, each in known.items() if each is not None},
        compared(words, setting, found, suite.against, of_items=False),
    )
