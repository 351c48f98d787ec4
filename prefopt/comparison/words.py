"""The figures of a comparison in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prefopt.comparison.frontier import Frontiers, Measure
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Estimate, Row, Setting

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
    for metric in suite.task.metrics:
        if suite.has_plane and metric.name == suite.plane.distance:
            continue  # it is best not to move at all; what it is worth is said by the frontier
        known = [row for row in table if metric.name in row.metrics and row.name != REFERENCE]
        if known:
            figures: Mapping[str, int] = {"higher": 1, "lower": -1}
            best = max(known, key=lambda row: figures[metric.better] * row.metrics[metric.name].mean)
            text = f"{metric.name} ({metric.better} is better): best is {best.name}{at(best.setting)}, with "
            text += shown(best.metrics[metric.name])
            untrained = next(row for row in table if row.name == REFERENCE).metrics.get(metric.name)
            yield text + (f"; the reference has {number(untrained.mean)}." if untrained else ".")
    if of:
        yield _of_differences(suite, of)


def _size(suite: Suite, table: Sequence[Row]) -> str:
    settings, seeds = len(suite.settings), len(suite.seeds)
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
    text = f"{measure.words}{at(plane.setting)}: most has {best}, with {shown(measure.estimates[best])}"
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
