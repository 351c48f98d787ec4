"""The results in words: the headline (which objective does best, by how much, and whether that can be told from
chance), a sentence for each further figure, and the size of the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prefopt.comparison.frontier import Frontiers, Measure
from prefopt.comparison.results import Results
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import least_p
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Estimate, Row
from prefopt.report.format import at, counted, number, shown, spaced
from prefopt.tasks.base import Metric

_LEVEL = 0.05
"""A difference whose adjusted p is below is called distinguishable from chance."""


def headline(results: Results) -> str:
    """At the same distance from the reference where objectives go as far; else by the metric that comes first."""
    suite = results.suite
    matched = next(((plane, plane.matched) for plane in results.planes if plane.matched), None)
    if matched is None:
        return " ".join((*_at_any_distance(results), *_control_counts(suite, results.control_differences)))
    plane, measures = matched
    measure = measures[len(measures) // 2]
    parts = [*_at_one_distance(suite, plane, measure), *_against_controls(measure.control_differences)]
    if least_p(seeds := len(suite.seeds)) >= _LEVEL:
        parts.append(
            f"{counted(seeds, 'seed').capitalize()} cannot tell objectives apart, only these trained policies."
        )
    if others := len(results.planes) - 1:
        parts.append(f"The other {counted(others, 'setting')} of the sweeps are below.")
    return " ".join(parts)


def _at_one_distance(suite: Suite, plane: Frontiers, measure: Measure) -> Iterator[str]:
    figures = {name: measure.estimates[name] for name in suite.objectives if name in measure.estimates}
    if not figures:
        return
    ranked = sorted(figures, key=lambda name: figures[name].mean, reverse=True)
    where = f"At {spaced(suite.plane.distance)} {measure.distance:.3g} from the reference{at(plane.setting)},"
    yield _ranking(where, "highest", suite.plane.reward, ranked, figures)
    yield from _against_baseline(suite, ranked, measure.differences)
    if extrapolated := [name for name in ranked if name in measure.extrapolated]:
        yield f"No run of {', '.join(extrapolated)} is so near to the reference: what is read there may be too low."
    if absent := [name for name in suite.objectives if name not in figures]:
        yield f"No figure there: {', '.join(absent)}, which does not go so far or has runs missing."


def _at_any_distance(results: Results) -> Iterator[str]:
    suite = results.suite
    metric = next(metric for metric in suite.metrics if metric.name == suite.plane.reward)
    rows = [row for row in results.rows if row.name in suite.objectives and metric.name in row.metrics]
    if not rows:
        yield "Nothing is measured yet."
        return
    ranked = sorted(rows, key=lambda row: row.metrics[metric.name].mean, reverse=metric.better != "lower")
    best: dict[str, Row] = {}
    for row in ranked:
        best.setdefault(row.name, row)
    figures = {f"{name}{at(row.setting)}": row.metrics[metric.name] for name, row in best.items()}
    extreme = "lowest" if metric.better == "lower" else "highest"
    yield _ranking("Each at its best setting,", extreme, metric.name, list(figures), figures)
    differences = [d for d in results.differences if d.metric == metric.name and d.setting == ranked[0].setting]
    yield from _against_baseline(suite, list(best), differences)
    if suite.plane.distance not in {metric.name for metric in suite.metrics}:
        yield "How far each went from the reference is not known: this task does not measure it."


def _ranking(where: str, extreme: str, reward: str, ranked: Sequence[str], figures: Mapping[str, Estimate]) -> str:
    first, *others = ranked
    text = f"{where} {first} has the {extreme} {spaced(reward)}, {shown(figures[first])}"
    rest = ", ".join(f"{name} {shown(figures[name])}" for name in others)
    return f"{text}; then {rest}." if rest else f"{text}."


def _against_baseline(suite: Suite, ranked: Sequence[str], differences: Sequence[Difference]) -> Iterator[str]:
    """Of the best from the baseline; where the baseline is the best, of the next from it."""
    rival = next((name for name in ranked if name != suite.against), None)
    for d in differences:
        if d.name == rival:
            yield f"The difference of {rival} from {suite.against}, {shown(d.estimate, '+')}, is {_verdict(d)}."


def _against_controls(differences: Sequence[Difference]) -> Iterator[str]:
    if len(differences) == 1:
        (d,) = differences
        yield f"Against its control without a mask, {d.name} has {shown(d.estimate, '+')}: {_verdict(d)}."
    elif differences:
        figures = ", ".join(f"{d.name} {shown(d.estimate, '+')}" for d in differences)
        clear = [d.name for d in differences if _judged(d)[1] < _LEVEL and not _has_zero(d.estimate)]
        yield (
            f"Against their controls without a mask: {figures}; distinguishable from chance over "
            f"{_judged(differences[0])[0]}, with zero outside of the interval: {', '.join(clear) or 'none'}."
        )


def _control_counts(suite: Suite, differences: Sequence[Difference]) -> Iterator[str]:
    rewards = [d for d in differences if d.metric == suite.plane.reward]
    if rewards:
        better = sum(d.estimate.mean > 0 for d in rewards)
        clear = sum(_judged(d)[1] < _LEVEL for d in rewards)
        yield (
            f"Against their controls without a mask, masked objectives have a higher {spaced(suite.plane.reward)} "
            f"in {better} of {counted(len(rewards), 'comparison')}; {clear} of the differences can be told from chance "
            f"over {_judged(rewards[0])[0]}."
        )


def _judged(difference: Difference) -> tuple[str, float]:
    """What a difference is judged over, and its adjusted p: held-out items where seeds are too few for any p < 0.05."""
    if difference.holm_items is not None and least_p(difference.estimate.count) >= _LEVEL:
        return "held-out items", difference.holm_items
    return "seeds", difference.holm_seeds


def _has_zero(estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= 0 <= estimate.high


def _verdict(difference: Difference) -> str:
    over, p = _judged(difference)
    text = f"{'' if p < _LEVEL else 'not '}distinguishable from chance over {over} (adjusted p {number(p)})"
    if p < _LEVEL and _has_zero(difference.estimate):
        text += f", but the interval over {difference.estimate.over} has zero within it"
    return text


def sentences(results: Results) -> Iterator[str]:
    """The further figures, one a sentence."""
    suite = results.suite
    for plane in results.planes:
        for measure in plane.measures:
            yield from _most(suite, plane, measure)
    for metric in suite.metrics:
        # The least distance is that of a policy that does not move; what a distance is worth is the frontier's to say.
        if not (suite.has_plane and metric.name == suite.plane.distance):
            yield from _best(metric, results.rows)
    for differences, kind in (
        (results.differences, f"from {suite.against}"),
        (results.control_differences, "of a masked objective from its own control"),
    ):
        if differences:
            yield _significant(len(suite.seeds), differences, kind)


def _most(suite: Suite, plane: Frontiers, measure: Measure) -> Iterator[str]:
    figures = {name: measure.estimates[name] for name in suite.objectives if name in measure.estimates}
    if not figures or (len(figures) > 1 and len({estimate.mean for estimate in figures.values()}) == 1):
        return
    best = max(figures, key=lambda name: figures[name].mean)
    text = f"{measure.words}{at(plane.setting)}: {best} has most, {shown(figures[best])}"
    d = next((d for d in measure.differences if d.name == best), None)
    if d is not None:
        text += f"; that is {shown(d.estimate, '+')} from {suite.against} (p over seeds {number(d.p_seeds)}"
        text += f", adjusted {number(d.holm_seeds)})"
    absent = [name for name in suite.objectives if name not in figures]
    yield text + (f". Without a figure: {', '.join(absent)}." if absent else ".")


def _best(metric: Metric, rows: Sequence[Row]) -> Iterator[str]:
    """Which row is best; nothing where no two rows differ, or no direction is better."""
    means = {row: row.metrics[metric.name].mean for row in rows if metric.name in row.metrics and row.control is None}
    trained = {row: mean for row, mean in means.items() if row.name != REFERENCE}
    if len(set(trained.values())) < 2 or metric.better == "neither":
        return
    top = {"higher": max, "lower": min}[metric.better](trained.values())
    best = [row for row, mean in trained.items() if mean == top]
    text = f"{spaced(metric.name)} ({metric.better} is better): best is {best[0].name}{at(best[0].setting)}"
    text += f" (and {len(best) - 1} with the same mean)" if len(best) > 1 else ""
    text += f", with {shown(best[0].metrics[metric.name])}"
    untrained = next((mean for row, mean in means.items() if row.name == REFERENCE), None)
    yield text + ("." if untrained is None else f"; the reference has {number(untrained)}.")


def _significant(seeds: int, differences: Sequence[Difference], kind: str) -> str:
    over_items = sum(d.holm_items is not None and d.holm_items < _LEVEL for d in differences)
    over_seeds = sum(d.holm_seeds < _LEVEL for d in differences)
    text = f"Of {counted(len(differences), 'difference')} {kind}, {over_items} have an adjusted p below {_LEVEL} "
    text += f"over held-out items, and {over_seeds} over seeds"
    if least_p(seeds) < _LEVEL:
        return f"{text}."
    verb = "allow" if seeds > 1 else "allows"
    return f"{text}, where {counted(seeds, 'seed')} {verb} no p below {least_p(seeds):.2g}."


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
