"""The report as a page: one HTML file that needs nothing but itself."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from prefopt.comparison.frontier import Frontiers
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Difference, Row, grouped
from prefopt.pages import render
from prefopt.report.drawn import drawn, looks
from prefopt.report.format import at, least_p, named, number, short, shown, spaced
from prefopt.report.headline import answer
from prefopt.report.heat_maps import LAYERS, heat_maps
from prefopt.report.plots import Plot
from prefopt.report.sentences import sentences, size

__all__ = ["write_page"]

_PROMPTS = 8
"""Prompts whose responses the page shows."""


@final
@dataclass(frozen=True)
class _Samples:
    """What each row's policy of a seed wrote on some prompts.

    prompts   each with its answers: (place of the row's setting in `settings`, none for the reference; row; text)
    settings  in words
    """

    seed: int
    prompts: list[tuple[str, list[tuple[int | None, Row, str]]]]
    settings: list[str]


def write_page(
    suite: Suite,
    folder: Path,
    table: Sequence[Row],
    of: Sequence[Difference],
    masks: Sequence[Difference],
    planes: Sequence[Frontiers],
    plots: Mapping[str, Plot],
    path: Path,
) -> None:
    """Write the page of a comparison in `folder`."""
    records = [record for row in table for record in row.finished.values()]
    page = render(
        "prefopt.report",
        "page.html.jinja",
        suite=suite,
        answer=answer(suite, table, planes, of, masks),
        size=size(suite, table),
        sentences=list(sentences(suite, table, of, masks, planes)),
        rows=table,
        metrics=[metric for metric in suite.metrics if any(metric.name in row.metrics for row in table)],
        looks=looks(suite),
        planes=planes,
        plots=plots,
        groups={name: drawn(plot, large=name == "frontier") for name, plot in plots.items()},
        differences=_by_metric(of, suite.plane.reward),
        masks=_by_metric(masks, suite.plane.reward),
        heat_maps=heat_maps(suite, table),
        layers=LAYERS,
        samples=_samples(suite, table),
        failures=[(row, seed, record) for row in table for seed, record in row.failed.items()],
        commands=[(row, _command(suite, row, folder)) for row in table if row.name in suite.objectives],
        versions=_versions(records),
        seconds=sum(sum(record["seconds"].values()) for record in records),
        memory=max((r["peak_memory_mib"] for r in records if r["peak_memory_mib"] is not None), default=None),
        yaml=suite.to_yaml(),
        reference=REFERENCE,
        at=at,
        least_p=least_p,
        named=named,
        number=number,
        short=short,
        shown=shown,
        spaced=spaced,
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _by_metric(of: Sequence[Difference], first: str) -> dict[str, list[Difference]]:
    """The metric of that name first."""
    found: dict[str, list[Difference]] = defaultdict(list)
    for each in sorted(of, key=lambda each: each.metric != first):
        found[each.metric].append(each)
    return dict(found)


def _samples(suite: Suite, table: Sequence[Row]) -> _Samples | None:
    """Of the first seed that has any, and its first prompts."""
    seed = next((seed for row in table for seed, record in row.finished.items() if record["samples"]), None)
    if seed is None:
        return None
    groups = grouped(suite, table)
    place = {row: number for number, rows in enumerate(groups.values()) for row in rows}
    written = [(place.get(row), row, row.finished[seed]["samples"]) for row in table if seed in row.finished]
    prompts = list(dict.fromkeys(prompt for *_, samples in written for prompt in samples))[:_PROMPTS]
    answers = [[(number, row, of[prompt][0]) for number, row, of in written if of.get(prompt)] for prompt in prompts]
    return _Samples(seed, list(zip(prompts, answers, strict=True)), [at(each).removeprefix(", ") for each in groups])


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
