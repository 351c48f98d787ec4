"""The report as a page: one HTML file without external resources."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.comparison.differences import Difference
from prefopt.comparison.results import Results
from prefopt.comparison.run import REFERENCE
from prefopt.comparison.statistics import SEEDS_TO_TELL, least_p
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Row, basis, grouped
from prefopt.pages import render
from prefopt.report.charts import COLOURS, chart_groups, looks, standings
from prefopt.report.format import at, counted, listed, named, number, p_value, rounded, short, spaced
from prefopt.report.further import sentences, size
from prefopt.report.headline import headline, notes
from prefopt.report.heat_maps import heat_maps
from prefopt.report.plots import Plot
from prefopt.tasks.base import Metric
from prefopt.tasks.held_out import ACCURACY
from prefopt.whole_files import publish_text

_PROMPTS = 8
"""Prompts whose responses the page shows."""


def write_page(results: Results, plots: Mapping[str, Plot], folder: Path, path: Path) -> None:
    """Write the page of a comparison in `folder`."""
    suite, rows = results.suite, results.rows
    records = [record for row in rows for record in row.finished.values()]
    page = render(
        "prefopt.report",
        "page.html.jinja",
        suite=suite,
        headline=headline(results),
        size=size(results),
        sentences=list(sentences(results)),
        rows=rows,
        metrics=_metrics(results),
        notes=list(notes(results)),
        picture=plots.get("frontier") or standings(results),
        over=basis(results.values),
        colours=COLOURS,
        looks=looks(suite),
        planes=results.planes,
        plots=plots,
        groups={name: chart_groups(plot) for name, plot in plots.items()},
        differences=_by_metric(results.differences, suite.plane.reward),
        masks=_by_metric(results.control_differences, suite.plane.reward),
        heat_maps=heat_maps(suite, rows),
        samples=_samples(suite, rows),
        failures=[(row, seed, record) for row in rows for seed, record in row.failed.items()],
        mask_faults=[
            (row, seed, fault)
            for row in rows
            for seed, record in row.finished.items()
            for fault in record.get("mask_faults", {}).values()
        ],
        commands=[(row, _command(suite, row, folder)) for row in rows if row.name in suite.objectives],
        versions=_versions(records),
        seconds=sum(sum(record["seconds"].values()) for record in records),
        memory=max((r["peak_memory_mib"] for r in records if r["peak_memory_mib"] is not None), default=None),
        yaml=suite.to_yaml(),
        reference=REFERENCE,
        seeds_to_tell=SEEDS_TO_TELL,
        at=at,
        least_p=least_p,
        chart_groups=chart_groups,
        counted=counted,
        listed=listed,
        named=named,
        number=number,
        p_value=p_value,
        rounded=rounded,
        short=short,
        spaced=spaced,
    )
    publish_text(page, path)


def _metrics(results: Results) -> dict[str, list[Metric]]:
    """The metrics that some row has: the first to look at, other ones, and those in which no two rows differ."""
    suite = results.suite
    kinds: dict[str, list[Metric]] = {"first": [], "other": [], "equal": []}
    for metric in suite.metrics:
        figures = {(e.mean, e.low, e.high) for row in results.rows if (e := row.metrics.get(metric.name)) is not None}
        first = metric.name in (suite.plane.reward, suite.plane.distance, ACCURACY.name)
        if figures:
            kinds["first" if first else "equal" if len(figures) == 1 else "other"].append(metric)
    return kinds


def _by_metric(differences: Sequence[Difference], first: str) -> tuple[dict[str, list[Difference]], list[str]] | None:
    """The differences by metric, the metric of that name first, and the metrics without any; None without both."""
    metrics = sorted(dict.fromkeys(d.metric for d in differences), key=lambda metric: metric != first)
    by_metric = {metric: [d for d in differences if d.metric == metric] for metric in metrics}
    equal = [metric for metric in metrics if all(d.estimate.is_zero for d in by_metric[metric])]
    return ({metric: by_metric[metric] for metric in metrics if metric not in equal}, equal) if metrics else None


def _samples(suite: Suite, rows: Sequence[Row]) -> dict[str, Any] | None:
    """The first sample of each row's policy of the first seed that has any, on its first prompts.

    prompts: each with its answers (index of the row's setting in `settings`, none for the reference; row; text)
    """
    seed = next((seed for row in rows for seed, record in row.finished.items() if record["samples"]), None)
    if seed is None:
        return None
    groups = grouped(suite, rows)
    indices = {row: index for index, group in enumerate(groups.values()) for row in group}
    samples = [(indices.get(row), row, row.finished[seed]["samples"]) for row in rows if seed in row.finished]
    prompts = list(dict.fromkeys(prompt for *_, texts in samples for prompt in texts))[:_PROMPTS]
    answers = {p: [(index, row, texts[p][0]) for index, row, texts in samples if texts.get(p)] for p in prompts}
    settings = [at(setting).removeprefix(", ") for setting in groups]
    return {"seed": seed, "prompts": list(answers.items()), "settings": settings}


def _command(suite: Suite, row: Row, folder: Path) -> str:
    """The command that runs this row again, in a folder of its own."""
    own_sweeps = suite.objectives[row.name].sweeps
    sections = {field: f"objectives.{row.name}.sweeps" if field in own_sweeps else "sweeps" for field, _ in row.setting}
    sweeps = [f"{sections[field]}.{field}=[{value}]" for field, value in row.setting]
    words = ["prefopt", "compare", str(folder / "suite.yaml"), *sweeps, "--objective", row.name]
    return shlex.join([*words, "--out", f"{folder}-again"])


def _versions(records: Sequence[Mapping[str, object]]) -> list[str]:
    """Each set of versions that records were made with, in words; more than one where libraries changed in between."""
    versions = [record["versions"] for record in records]
    words = [", ".join(f"{name} {version}" for name, version in v.items()) for v in versions if isinstance(v, Mapping)]
    return list(dict.fromkeys(words))
