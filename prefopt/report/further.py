"""The further figures in words, one a sentence, and the size of the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefopt.comparison.differences import Difference
from prefopt.comparison.frontier import Frontiers, Measure
from prefopt.comparison.results import Results
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import LEVEL, least_p
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Row
from prefopt.report.format import at, counted, listed, rounded, shown, spaced
from prefopt.tasks.base import Metric


def sentences(results: Results) -> Iterator[str]:
    """Of each measure of the frontiers, of each metric, and how many differences there are."""
    suite = results.suite
    for plane in results.planes:
        for measure in plane.measures:
            yield from _most(suite, plane, measure)
    alike = []
    for metric in suite.metrics:
        # The least distance is that of a policy that does not move; what a distance is worth is the frontier's to say.
        if metric.better == "neither" or (suite.has_plane and metric.name == suite.plane.distance):
            continue
        rows = [row for row in results.rows if metric.name in row.metrics and row.control is None]
        if len({row.metrics[metric.name].mean for row in rows}) > 1:
            yield _range(metric, rows, results)
        elif len(rows) > 1:
            alike.append(spaced(metric.name))
    if alike:
        yield f"Nothing differs in {listed(alike)}: all rows have the same."
    for differences, kind in (
        (results.differences, f"from {suite.against}"),
        (results.control_differences, "of a masked objective from its own control"),
    ):
        if differences:
            yield _counts(results, differences, kind)


def _most(suite: Suite, plane: Frontiers, measure: Measure) -> Iterator[str]:
    if len(measure.estimates) < 2:
        return
    where = f"{measure.words}{at(plane.setting)}"
    if len({estimate.mean for estimate in measure.estimates.values()}) == 1:
        yield f"{where}: nothing differs."
        return
    best = max(measure.estimates, key=lambda name: measure.estimates[name].mean)
    told = [f"{d.name} {shown(d.estimate, '+')}" for d in measure.differences if d.told]
    text = f"{where}, on {counted(measure.seeds, 'seed')}: {best} has most, {shown(measure.estimates[best])}"
    text += f"; told from {suite.against}: {', '.join(told) or 'none'}"
    missing = [name for name in suite.objectives if name not in measure.estimates]
    yield text + (f". Not compared: {', '.join(missing)}." if missing else ".")


def _range(metric: Metric, rows: Sequence[Row], results: Results) -> str:
    """From the worst to the best row, and what can be told; the best of many rows is high by chance, too."""
    trained = [row for row in rows if row.name != REFERENCE]
    ranked = sorted(trained, key=lambda row: row.metrics[metric.name].mean, reverse=metric.better == "lower")
    text = f"{spaced(metric.name)} ({metric.better} is better)"
    ends = [f"{rounded(row.metrics[metric.name])[0]} ({row.name}{at(row.setting)})" for row in (ranked[0], ranked[-1])]
    equal = ranked[0].metrics[metric.name].mean == ranked[-1].metrics[metric.name].mean
    text += (
        f": all rows have {rounded(ranked[0].metrics[metric.name])[0]}" if equal else f": from {ends[0]} to {ends[1]}"
    )
    for row in rows:
        if row.name == REFERENCE:
            text += f"; the reference has {rounded(row.metrics[metric.name])[0]}"
    differences = [d for d in results.differences if d.metric == metric.name]
    if differences and not equal:
        text += f"; {sum(d.told for d in differences)} of {counted(len(differences), 'difference')}"
        text += f" from {results.suite.against} can be told from chance"
    return f"{text}."


def _counts(results: Results, differences: Sequence[Difference], kind: str) -> str:
    told, over = sum(d.told for d in differences), differences[0].estimate.over
    basis = "seeds" if over == "seeds" else "held-out items, of these trained policies alone"
    text = (
        f"Of {counted(len(differences), 'difference')} {kind}, in all metrics and settings, {told} have an adjusted p"
    )
    text += f" below {LEVEL} over {basis}"
    seeds = len(results.suite.seeds)
    if over == "items" or least_p(seeds) < LEVEL:
        return f"{text}."
    return f"{text}, where {counted(seeds, 'seed')} allow no p below {least_p(seeds):.2g}."


def size(results: Results) -> str:
    """How much was compared, and how much of it is finished."""
    suite, rows = results.suite, results.rows
    settings, seeds = len({row.setting for row in rows if row.name != REFERENCE}), len(suite.seeds)
    finished, failed = sum(len(row.finished) for row in rows), sum(len(row.failed) for row in rows)
    planned = [row for row in rows if row.control is None]  # how many controls there are depends on the masks
    missing = len(planned) * seeds - sum(len(row.finished) + len(row.failed) for row in planned)
    text = f"{counted(len(suite.objectives), 'objective')} at {counted(settings, 'setting')}"
    text += f" under {counted(seeds, 'seed')}"
    if controls := len(rows) - len(planned):
        text += f", {counted(controls, 'row')} of controls"
    text += f", and the untrained reference: {counted(finished + failed + missing, 'run')}, {finished} of them finished"
    text += f", {failed} failed" if failed else ""
    return text + (f", {missing} not carried out yet." if missing else ".")
