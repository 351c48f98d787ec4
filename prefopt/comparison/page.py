"""The report as a page: one HTML file that needs nothing but itself."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from prefopt.comparison.frontier import Frontiers
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Estimate, Row
from prefopt.comparison.words import at, number, sentences, short, shown
from prefopt.pages import render
from prefopt.pages.charts import Chart, Segment, line_chart

__all__ = ["write_page"]

_CURVES = {
    "loss": "Loss, with all regularisers",
    "rewards/margins": "Reward margin, chosen - rejected",
    "rewards/accuracies": "Share of pairs ranked right",
    "weights/sparsity": "Share of weights w at zero",
}
_FAR = 2.0
"""How much further than the hypervolume reaches a frontier is drawn: a policy that went astray would make the others
a dot."""


@dataclass(frozen=True)
class _Picture:
    """A frontier's chart, what is said of each mark of each line, and how many rows are too far away to be drawn."""

    plane: Frontiers
    chart: Chart
    titles: list[list[str]]
    beyond: int


def write_page(
    suite: Suite,
    folder: Path,
    table: Sequence[Row],
    of: Sequence[Difference],
    planes: Sequence[Frontiers],
    path: Path,
) -> None:
    """Write the page of a comparison in `folder`."""
    records = [record for row in table for record in row.finished.values()]
    metrics = [metric for metric in suite.metrics if any(metric.name in row.metrics for row in table)]
    page = render(
        "prefopt.comparison",
        "page.html.jinja",
        suite=suite,
        sentences=list(sentences(suite, table, of, planes)),
        rows=table,
        metrics=metrics,
        colour={name: place for place, name in enumerate(suite.objectives)},
        pictures=[_picture(suite, plane) for plane in planes],
        differences=_by_metric(of),
        curves=list(_curves(suite, table)),
        samples=_samples(table),
        failures=[(row, seed, record) for row in table for seed, record in row.failed.items()],
        commands=[(row, _command(suite, row, folder)) for row in table if row.name in suite.objectives],
        versions=_versions(records),
        seconds=sum(sum(record["seconds"].values()) for record in records),
        memory=max((r["peak_memory_mib"] for r in records if r["peak_memory_mib"] is not None), default=None),
        yaml=suite.to_yaml(),
        reference=REFERENCE,
        at=at,
        number=number,
        short=short,
        shown=shown,
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _picture(suite: Suite, plane: Frontiers) -> _Picture:
    distance, reward = suite.plane.distance, suite.plane.reward
    far = math.inf if suite.plane.within is None else _FAR * suite.plane.within
    points: dict[str, list[tuple[float, float]]] = {}
    bars: dict[str, list[Segment]] = {}
    titles, beyond = [], 0
    (reference,) = plane.rows[REFERENCE]
    for name in suite.objectives:
        known = [row for row in (reference, *plane.rows[name]) if {distance, reward} <= row.metrics.keys()]
        known.sort(key=lambda row: row.metrics[distance].mean)
        near = [row for row in known if row.metrics[distance].mean <= far]
        beyond += len(known) - len(near)
        points[name] = [(row.metrics[distance].mean, row.metrics[reward].mean) for row in near]
        bars[name] = [bar for row in near for bar in _bars(row.metrics[distance], row.metrics[reward], far)]
        titles.append(
            [
                f"{row.name}{at(row.setting)}: {reward} {shown(row.metrics[reward])} at {distance} "
                f"{shown(row.metrics[distance])}"
                for row in near
            ]
        )
    chart = line_chart(f"{reward} against {distance}", points, takes_in=(), segments=bars, size=(480, 300))
    return _Picture(plane, chart, titles, beyond)


def _bars(x: Estimate, y: Estimate, far: float) -> Iterator[Segment]:
    """The intervals of a point, which lie along its axes."""
    if x.low is not None and x.high is not None:
        yield max(0.0, x.low), y.mean, min(far, x.high), y.mean
    if y.low is not None and y.high is not None:
        yield x.mean, y.low, x.mean, y.high


def _by_metric(of: Sequence[Difference]) -> dict[str, list[Difference]]:
    found: dict[str, list[Difference]] = defaultdict(list)
    for each in of:
        found[each.metric].append(each)
    return dict(found)


def _curves(suite: Suite, table: Sequence[Row]) -> Iterator[tuple[str, list[str], list[Chart]]]:
    """For each setting: its words, its objectives, and the charts of their mean curves over seeds."""
    for setting in dict.fromkeys(row.setting for row in table if row.name != REFERENCE):
        of_setting = [row for row in table if row.setting == setting and row.name in suite.objectives and row.finished]
        charts = []
        for name, title in _CURVES.items():
            series = {row.name: _mean_curve(row, name) for row in of_setting}
            if any(series.values()):
                charts.append(line_chart(title, series))
        if charts:
            yield at(setting).removeprefix(", ") or "all runs", [row.name for row in of_setting], charts


def _mean_curve(row: Row, name: str) -> list[tuple[float, float]]:
    """The mean over seeds at each step that all seeds have."""
    by_step: dict[float, list[float]] = defaultdict(list)
    for record in row.finished.values():
        for step, value in record["curves"].get(name, ()):
            by_step[step].append(value)
    return [(step, fmean(values)) for step, values in sorted(by_step.items()) if len(values) == len(row.finished)]


def _samples(table: Sequence[Row]) -> tuple[str, list[tuple[Row, str]]] | None:
    """The first prompt, and what each row's policy of the first seed wrote on it."""
    seed = next((seed for row in table for seed in row.finished), None)
    answers = [(row, row.finished[seed]["samples"]) for row in table if seed is not None and seed in row.finished]
    prompt = next((prompt for _, samples in answers for prompt in samples), None)
    if prompt is None:
        return None
    return prompt, [(row, samples[prompt][0]) for row, samples in answers if samples.get(prompt)]


def _command(suite: Suite, row: Row, folder: Path) -> str:
    """What carries out this row again, in a folder of its own."""
    own = suite.objectives[row.name].sweeps
    places = {field: f"objectives.{row.name}.sweeps" if field in own else "sweeps" for field, _ in row.setting}
    sweeps = [f"{places[field]}.{field}=[{value}]" for field, value in row.setting]
    words = ["prefopt", "compare", str(folder / "suite.yaml"), *sweeps, "--objective", row.name]
    return shlex.join([*words, "--out", f"{folder}-again"])


def _versions(records: Sequence[Mapping[str, object]]) -> list[str]:
    """Each set of versions that records were made with, in words; more than one where libraries changed in between."""
    found = [record["versions"] for record in records]
    words = [", ".join(f"{name} {version}" for name, version in of.items()) for of in found if isinstance(of, Mapping)]
    return list(dict.fromkeys(words))
