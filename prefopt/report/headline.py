"""The verdict in words: three sentences (which objective is best, by how much, and how sure that is), and what goes
with them."""

from __future__ import annotations

from collections.abc import Iterator

from prefopt.comparison.results import Results
from prefopt.comparison.statistics import LEVEL, SEEDS_TO_TELL, least_p
from prefopt.comparison.summary import is_finite
from prefopt.comparison.verdict import Verdict, verdict
from prefopt.report.format import at, counted, listed, number, p_value, rounded, shown, spaced


def headline(results: Results) -> str:
    """The three sentences, fewer where there is less to say."""
    judged = verdict(results)
    if judged is None:
        return "Nothing is measured yet." if not results.records else _of_other_runs(results)
    return " ".join((_first(results, judged), *_difference(judged), *_certainty(judged)))


def _of_other_runs(results: Results) -> str:
    """What is said where no run is finished, though there are records."""
    if any(row.failed for row in results.rows):
        return "Nothing is measured yet."
    variables = results.suite.variables
    return (
        f"Nothing is measured yet: the {counted(len(results.records), 'record')} here are of runs of other settings"
        + (f", such as other values of the environment's {listed(variables)}." if variables else ".")
    )


def _first(results: Results, judged: Verdict) -> str:
    baseline = results.suite.against
    figure, names = spaced(judged.metric.name), [standing.name for standing in judged.standings]
    first = judged.standings[0]
    winner = f"{first.name}{at(first.setting)}"
    extreme = "lowest" if judged.metric.better == "lower" else "highest"
    if len(names) == 1:
        return f"{_where(results, judged)}{winner} alone has a {figure}: {shown(first.estimate)}."
    if judged.nothing_differs:
        return f"{_where(results, judged)}nothing differs: {listed(names)} have {figure} {number(first.estimate.mean)}."
    has = f"has the {extreme} {figure}, {shown(first.estimate)}"
    if judged.best is not None:
        others = f"the other, {names[1]}" if len(names) == 2 else f"each of the {len(names) - 1} others"
        return f"{_where(results, judged)}{winner} {has}, and can be told from {others}."
    if judged.told:
        better = "lower" if judged.metric.better == "lower" else "higher"
        worse = {"lower": "higher", "higher": "lower"}[better]
        by_side = {
            side: [d.name for d in judged.told if (d.estimate.mean > 0) == (side == "higher")]
            for side in (better, worse)
        }
        told = listed([f"{listed(names)} ({side})" for side, names in by_side.items() if names])
        beginning = f"{_where(results, judged)}{winner} {has}, but cannot be told from all others"
        return f"{beginning}; told from {baseline}: {told}."
    against = baseline if baseline in names else "another"
    return f"{_where(results, judged)}no objective can be told from {against}; {winner} {has}."


def _where(results: Results, judged: Verdict) -> str:
    """How the sentence begins."""
    if judged.distance is not None:
        distance = spaced(results.suite.plane.distance)
        return f"At {distance} {judged.distance:g} from the reference{at(judged.setting)}, "
    return (
        "Each at its best setting, "
        if any(standing.setting for standing in judged.standings)
        else "Of what is measured, "
    )


def _difference(judged: Verdict) -> Iterator[str]:
    d = judged.contest
    if d is None or judged.nothing_differs:
        return
    over = f"on the same {counted(judged.seeds, 'seed')}"
    basis = "" if d.estimate.over == "seeds" else " over held-out items, of these trained policies alone"
    yield f"The difference of {d.name} from {d.against}, {over}, is {shown(d.estimate, '+')} (p {p_value(d.p)}{basis})."


def _certainty(judged: Verdict) -> Iterator[str]:
    """What so many seeds can tell, and how many would tell this difference."""
    d, enough = judged.contest, judged.enough_seeds
    if d is None or judged.nothing_differs:
        return
    power = f"about {enough} would tell such a difference in four of five comparisons"
    if d.estimate.over == "items":
        yield f"One seed says nothing of another training: {SEEDS_TO_TELL} seeds or more can tell objectives apart."
    elif least_p(judged.seeds) >= LEVEL:
        few = f"{counted(judged.seeds, 'seed').capitalize()} cannot tell objectives apart: no p over them is below"
        yield f"{few} {least_p(judged.seeds):.2g}, and {SEEDS_TO_TELL} are the fewest" + (
            f"; {power}." if enough else "."
        )
    elif enough:
        yield f"{power.capitalize().replace('would tell', 'seeds tell')}."
    elif d.by_seed and any(d.by_seed) and d.p_t is not None:
        yield "More than 1000 seeds would be needed to tell such a difference."


def notes(results: Results) -> Iterator[str]:
    """What has to be known beside the headline, one a sentence."""
    suite, judged = results.suite, verdict(results)
    if judged is None:
        return
    if judged.missing:
        seeds = ", ".join(f"{name} ({count} of {len(suite.seeds)} seeds)" for name, count in judged.missing.items())
        why = (
            "no runs on both sides of that distance, or runs missing" if judged.distance is not None else "runs missing"
        )
        yield f"Not compared, as there are {why}: {seeds}."
    if judged.seeds < len(suite.seeds):
        yield f"Compared on {judged.seeds} of {len(suite.seeds)} seeds, those which all compared objectives have."
    if judged.distance is None:
        yield from _distances(results, judged)
    else:
        yield from _frontiers(results, judged)
        settings = len(results.planes) - 1
        yield from [f"The other {counted(settings, 'setting')} of the sweeps are below."] if settings else []
    yield from _not_finite(results)
    yield from _against_controls(results, judged)


def _not_finite(results: Results) -> Iterator[str]:
    """The runs whose figures are left out."""
    for metric in results.suite.metrics:
        runs = [
            f"{row.name}{at(row.setting)}, seed {seed}"
            for row in results.rows
            for seed, record in row.finished.items()
            if not is_finite(record, metric.name)
        ]
        if runs:
            yield f"Without a figure in {spaced(metric.name)}, as theirs is not finite: {'; '.join(runs)}."


def _frontiers(results: Results, judged: Verdict) -> Iterator[str]:
    """How the frontiers were read at the distance."""
    distance = spaced(results.suite.plane.distance)
    if judged.measure is None or (power := judged.measure.power) is None:
        return
    coordinate = {0.0: f"the logarithm of {distance}", 1.0: distance}.get(power, f"{distance} to the power {power:g}")
    yield f"Between the runs of an objective, rewards are read on straight lines in {coordinate}."
    if judged.measure.incomplete:
        seeds = ", ".join(f"{name} ({counted(count, 'seed')})" for name, count in judged.measure.incomplete.items())
        yield f"Read between the other runs, as some failed or are missing: {seeds}."


def _distances(results: Results, judged: Verdict) -> Iterator[str]:
    """How far the objectives are from the reference, where they are not compared at the same distance."""
    name = results.suite.plane.distance
    rows = {(row.name, row.setting): row.metrics[name] for row in results.rows if name in row.metrics}
    settings = [(standing.name, standing.setting) for standing in judged.standings]
    if not all(key in rows for key in settings):
        yield "How far each went from the reference is not known: this task does not measure it."
    elif len(settings) > 1:
        distances = ", ".join(f"{key[0]} {rounded(rows[key])[0]}" for key in settings)
        yield f"Not at the same distance from the reference: {spaced(name)} is {distances}."


def _against_controls(results: Results, judged: Verdict) -> Iterator[str]:
    if judged.measure is not None:
        for d in judged.measure.control_differences:
            seeds, told = counted(d.estimate.count, "seed"), "" if d.told else "not "
            yield (
                f"Against its control without a mask, {d.name} has {shown(d.estimate, '+')} on {seeds}: "
                f"{told}told from chance (p {p_value(d.p)})."
            )
    elif rewards := [d for d in results.control_differences if d.metric == judged.metric.name]:
        better = sum(d.estimate.mean > 0 for d in rewards)
        yield (
            f"Against their controls without a mask, masked objectives have a higher {spaced(judged.metric.name)} in "
            f"{better} of {counted(len(rewards), 'comparison')}; {sum(d.told for d in rewards)} of the differences can "
            "be told from chance."
        )
