"""The figures of a comparison in words, a point a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefopt.comparison.frontier import Frontiers, Measure
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Row
from prefopt.report.format import LEVEL, at, counted, least_p, number, shown, spaced
from prefopt.tasks.base import Metric

__all__ = ["sentences", "size"]


def sentences(
    suite: Suite,
    table: Sequence[Row],
    of: Sequence[Difference],
    masks: Sequence[Difference],
    planes: Sequence[Frontiers],
) -> Iterator[str]:
    for plane in planes:
        for measure in plane.measures:
            yield from _of_measure(suite, plane, measure)
    for metric in suite.metrics:
        # It is best not to move at all: what the distance is worth is said by the frontier.
        if not (suite.has_plane and metric.name == suite.plane.distance):
            yield from _best(metric, table)
    if of:
        yield _of_differences(suite, of, f"from {suite.against}")
    if masks:
        yield _of_differences(suite, masks, "of a masked objective from its own control")


def size(suite: Suite, table: Sequence[Row]) -> str:
    """How much was compared, and what of it is finished."""
    settings, seeds = len({row.setting for row in table if row.name != REFERENCE}), len(suite.seeds)
    finished, failed = sum(len(row.finished) for row in table), sum(len(row.failed) for row in table)
    own = [row for row in table if row.control is None]
    missing = len(own) * seeds - sum(len(row.finished) + len(row.failed) for row in own)
    runs = finished + failed + missing  # how many controls there are depends on what the masks were
    text = f"{counted(len(suite.objectives), 'objective')} at {counted(settings, 'setting')}"
    text += f" under {counted(seeds, 'seed')}"
    if controls := sum(row.control is not None for row in table):
        text += f", {counted(controls, 'row')} of controls"
    text += f", and the untrained reference: {counted(runs, 'run')}, {finished} of them finished"
    text += f", {failed} failed" if failed else ""
    return text + (f", {missing} not carried out yet." if missing else ".")


def _best(metric: Metric, table: Sequence[Row]) -> Iterator[str]:
    """Which row is best; nothing where no two rows differ, or no direction is better."""
    known = {row: row.metrics[metric.name].mean for row in table if metric.name in row.metrics and row.control is None}
    trained = {row: mean for row, mean in known.items() if row.name != REFERENCE}
    if len(set(trained.values())) < 2 or metric.better == "neither":
        return
    top = {"higher": max, "lower": min}[metric.better](trained.values())
    best = [row for row, mean in trained.items() if mean == top]
    text = f"{spaced(metric.name)} ({metric.better} is better): best is {best[0].name}{at(best[0].setting)}"
    text += f" (and {len(best) - 1} with the same mean)" if len(best) > 1 else ""
    text += f", with {shown(best[0].metrics[metric.name])}"
    untrained = next((mean for row, mean in known.items() if row.name == REFERENCE), None)
    yield text + ("." if untrained is None else f"; the reference has {number(untrained)}.")


def _of_measure(suite: Suite, plane: Frontiers, measure: Measure) -> Iterator[str]:
    known = {name: measure.estimates[name] for name in suite.objectives if name in measure.estimates}
    if not known or (len(known) > 1 and len({estimate.mean for estimate in known.values()}) == 1):
        return  # nobody has most of it
    best = max(known, key=lambda name: known[name].mean)
    text = f"{measure.words}{at(plane.setting)}: {best} has most, {shown(known[best])}"
    against = next((each for each in measure.differences if each.name == best), None)
    if against is not None:
        text += f"; that is {shown(against.estimate, '+')} from {suite.against} (p over seeds {number(against.p_seeds)}"
        text += f", adjusted {number(against.holm_seeds)})"
    absent = [name for name in suite.objectives if name not in known]
    yield text + (f". Without a figure: {', '.join(absent)}." if absent else ".")


def _of_differences(suite: Suite, of: Sequence[Difference], whose: str) -> str:
    seeds = len(suite.seeds)
    over_items = sum(each.holm_items is not None and each.holm_items < LEVEL for each in of)
    over_seeds = sum(each.holm_seeds < LEVEL for each in of)
    text = f"Of {counted(len(of), 'difference')} {whose}, {over_items} have an adjusted p below {LEVEL} "
    text += f"over held-out items, and {over_seeds} over seeds"
    least = least_p(seeds)
    return text + (
        f", where {counted(seeds, 'seed')} {'allow' if seeds > 1 else 'allows'} no p below {least:.2g}."
        if least >= LEVEL
        else "."
    )
