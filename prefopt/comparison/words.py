"""The figures of a comparison in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefopt.comparison.frontier import Frontiers, Measure
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Estimate, Row, Setting
from prefopt.comparison.task import Metric

__all__ = ["at", "number", "sentences", "short", "shown"]

_LEVEL = 0.05


def number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3g}"


def shown(of: Estimate | None, sign: str = "") -> str:
    """The mean and, in brackets, its interval."""
    if of is None:
        return "-"
    return number(of.mean, sign) + ("" if of.low is None else f" [{number(of.low, sign)}, {number(of.high, sign)}]")


def short(field: str) -> str:
    """A swept field without its section."""
    return field.partition(".")[2]


def at(setting: Setting) -> str:
    """The setting as it follows a name; nothing where nothing is swept."""
    return "".join(f", {short(field)} {value}" for field, value in setting)


def sentences(
    suite: Suite, table: Sequence[Row], of: Sequence[Difference], planes: Sequence[Frontiers]
) -> Iterator[str]:
    """What came of the suite, a point a sentence."""
    yield _size(suite, table)
    for plane in planes:
        for measure in plane.measures:
            if measure.estimates:
                yield _of_measure(suite, plane, measure)
    for metric in suite.metrics:
        # It is best not to move at all: what the distance is worth is said by the frontier.
        if not (suite.has_plane and metric.name == suite.plane.distance):
            yield from _best(metric, table)
    if of:
        yield _of_differences(suite, of)


def _best(metric: Metric, table: Sequence[Row]) -> Iterator[str]:
    """Which row is best; nothing where no two rows differ."""
    if metric.better == "neither":
        return
    known = {row: row.metrics[metric.name].mean for row in table if row.control is None and metric.name in row.metrics}
    trained = {row: mean for row, mean in known.items() if row.name != REFERENCE}
    if len(set(trained.values())) < 2:
        return
    top = {"higher": max, "lower": min}[metric.better](trained.values())
    best = [row for row, mean in trained.items() if mean == top]
    text = f"{metric.name.replace('_', ' ')} ({metric.better} is better): best is {best[0].name}{at(best[0].setting)}"
    text += f" (and {len(best) - 1} with the same mean)" if len(best) > 1 else ""
    text += f", with {shown(best[0].metrics[metric.name])}"
    untrained = next((mean for row, mean in known.items() if row.name == REFERENCE), None)
    yield text + ("." if untrained is None else f"; the reference has {number(untrained)}.")


def _size(suite: Suite, table: Sequence[Row]) -> str:
    settings, seeds = len({row.setting for row in table if row.name != REFERENCE}), len(suite.seeds)
    finished, failed = sum(len(row.finished) for row in table), sum(len(row.failed) for row in table)
    runs = len(table) * seeds
    text = (
        f"{_count(len(suite.objectives), 'objective')} at {_count(settings, 'setting')} under {_count(seeds, 'seed')}"
    )
    text += f", and the untrained reference: {_count(runs, 'run')}, {finished} of them finished"
    text += f", {failed} failed" if failed else ""
    missing = runs - finished - failed
    return text + (f", {missing} not carried out yet." if missing else ".")


def _of_measure(suite: Suite, plane: Frontiers, measure: Measure) -> str:
    best = max(measure.estimates, key=lambda name: measure.estimates[name].mean)
    text = f"{measure.words}{at(plane.setting)}: {best} has most, {shown(measure.estimates[best])}"
    against = next((each for each in measure.differences if each.name == best), None)
    if against is not None:
        text += (
            f"; that is {shown(against.estimate, '+')} from {suite.against} (p over seeds {number(against.p_seeds)}, "
        )
        text += f"adjusted {number(against.holm_seeds)})"
    absent = [name for name in suite.objectives if name not in measure.estimates]
    return text + (f". Without a figure: {', '.join(absent)}." if absent else ".")


def _of_differences(suite: Suite, of: Sequence[Difference]) -> str:
    seeds = len(suite.seeds)
    over_items = sum(each.holm_items is not None and each.holm_items < _LEVEL for each in of)
    over_seeds = sum(each.holm_seeds < _LEVEL for each in of)
    text = f"Of {_count(len(of), 'difference')} from {suite.against}, {over_items} have an adjusted p below {_LEVEL} "
    text += f"over held-out items, and {over_seeds} over seeds"
    least = 2.0 ** (1 - seeds)
    return text + (f", where {_count(seeds, 'seed')} allow no p below {least:.2g}." if least >= _LEVEL else ".")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
