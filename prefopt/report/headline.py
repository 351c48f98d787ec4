"""The first paragraph of a report: which objective does best, by how much, and whether that can be told from chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefopt.comparison.frontier import Frontiers, Measure
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Estimate, Row
from prefopt.report.format import LEVEL, at, counted, has_zero, judged, least_p, shown, spaced, verdict

__all__ = ["answer"]


def answer(
    suite: Suite,
    table: Sequence[Row],
    planes: Sequence[Frontiers],
    of: Sequence[Difference],
    masks: Sequence[Difference],
) -> str:
    """At the same distance from the reference where objectives go as far; else by the metric that comes first."""
    matched = next(((plane, plane.matched) for plane in planes if plane.matched), None)
    if matched is None:
        return " ".join((*_at_any_distance(suite, table, of), *_of_masks(suite, masks)))
    plane, measures = matched
    measure = measures[len(measures) // 2]
    parts = [*_at_one_distance(suite, plane, measure), *_against_controls(measure.of_masks)]
    if (seeds := len(suite.seeds)) and least_p(seeds) >= LEVEL:
        parts.append(
            f"{counted(seeds, 'seed').capitalize()} cannot tell objectives apart, only these trained policies."
        )
    if len(planes) > 1:
        parts.append(f"The other {counted(len(planes) - 1, 'setting')} of the sweeps are below.")
    return " ".join(parts)


def _at_one_distance(suite: Suite, plane: Frontiers, measure: Measure) -> Iterator[str]:
    known = {name: measure.estimates[name] for name in suite.objectives if name in measure.estimates}
    if not known:
        return
    ranked = sorted(known, key=lambda name: known[name].mean, reverse=True)
    where = f"At {spaced(suite.plane.distance)} {measure.distance:.3g} from the reference{at(plane.setting)},"
    yield _ranking(where, spaced(suite.plane.reward), ranked, known)
    yield from _against(suite, ranked, measure.differences)
    if stretched := [name for name in ranked if name in measure.stretched]:
        yield f"No run of {', '.join(stretched)} is so near to the reference: what is read there may be too low."
    if absent := [name for name in suite.objectives if name not in known]:
        yield f"No figure there: {', '.join(absent)}, which does not go so far or has runs missing."


def _at_any_distance(suite: Suite, table: Sequence[Row], of: Sequence[Difference]) -> Iterator[str]:
    metric = next(metric for metric in suite.metrics if metric.name == suite.plane.reward)
    rows = [row for row in table if row.name in suite.objectives and metric.name in row.metrics]
    if not rows:
        yield "Nothing is measured yet."
        return
    ranked = sorted(rows, key=lambda row: row.metrics[metric.name].mean, reverse=metric.better != "lower")
    best: dict[str, Row] = {}
    for row in ranked:
        best.setdefault(row.name, row)
    known = {f"{name}{at(row.setting)}": row.metrics[metric.name] for name, row in best.items()}
    yield _ranking(
        "Each at its best setting,", spaced(metric.name), list(known), known, lowest=metric.better == "lower"
    )
    own = [each for each in of if each.metric == metric.name and each.setting == ranked[0].setting]
    yield from _against(suite, list(best), own)
    if suite.plane.distance not in {each.name for each in suite.metrics}:
        yield "How far each went from the reference is not known: this task does not measure it."


def _ranking(where: str, reward: str, ranked: Sequence[str], known: dict[str, Estimate], lowest: bool = False) -> str:
    first, *others = ranked
    text = f"{where} {first} has the {'lowest' if lowest else 'highest'} {reward}, {shown(known[first])}"
    rest = ", ".join(f"{name} {shown(known[name])}" for name in others)
    return f"{text}; then {rest}." if rest else f"{text}."


def _against(suite: Suite, ranked: Sequence[str], of: Sequence[Difference]) -> Iterator[str]:
    """Of the best from the baseline; where this is the best, of the next from it."""
    rival = next((name for name in ranked if name != suite.against), None)
    for each in of:
        if each.name == rival:
            yield (f"The difference of {rival} from {suite.against}, {shown(each.estimate, '+')}, is {verdict(each)}.")


def _against_controls(of: Sequence[Difference]) -> Iterator[str]:
    if len(of) == 1:
        yield f"Against its control without a mask, {of[0].name} has {shown(of[0].estimate, '+')}: {verdict(of[0])}."
    elif of:
        figures = ", ".join(f"{each.name} {shown(each.estimate, '+')}" for each in of)
        clear = [each.name for each in of if judged(each)[1] < LEVEL and not has_zero(each.estimate)]
        yield (
            f"Against their controls without a mask: {figures}; distinguishable from chance over {judged(of[0])[0]}, "
            f"with zero outside of the interval: {', '.join(clear) or 'none'}."
        )


def _of_masks(suite: Suite, masks: Sequence[Difference]) -> Iterator[str]:
    own = [each for each in masks if each.metric == suite.plane.reward]
    if own:
        better = sum(each.estimate.mean > 0 for each in own)
        clear = sum(judged(each)[1] < LEVEL for each in own)
        yield (
            f"Against their controls without a mask, masked objectives have a higher {spaced(suite.plane.reward)} in "
            f"{better} of {counted(len(own), 'comparison')}; {clear} of the differences can be told from chance over "
            f"{judged(own[0])[0]}."
        )
