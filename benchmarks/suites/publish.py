"""From the folder of a comparison to dated results: a page, its figures as CSV, and the pictures.

    python -m benchmarks.suites.publish runs/sentiment-twin --command "prefopt compare ..."

What was written by hand below "What it shows" is kept when the page is made anew. Samples are left out, which of some
data are not for a public page; they are in the folder's report.html.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from benchmarks.machine import hardware
from prefopt.comparison.frontier import frontiers
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.runner import RUNS, SUITE
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Row, differences, rows, what_masks_add
from prefopt.report import report
from prefopt.report.format import at, short, shown
from prefopt.report.headline import answer
from prefopt.report.sentences import sentences, size

__all__ = ["publish"]

_BY_HAND = "## What it shows"
_COLOURS = 64
"""Of a picture, which then takes a fourth of the space."""


def publish(
    folder: Annotated[Path, typer.Argument(help="What `prefopt compare` wrote.")],
    command: Annotated[str, typer.Option(help="What carried it out, as anybody would type it.")],
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path(__file__).parent.parent / "results",
    date: Annotated[str, typer.Option(help="Of the results.")] = datetime.date.today().isoformat(),
) -> None:
    """Write DATE-NAME.md, .csv and .png, NAME being the folder's."""
    results.mkdir(parents=True, exist_ok=True)
    stem = results / f"{date}-{folder.name}"
    pictures = []
    for path in report(folder):
        if path.suffix == ".png":
            pictures.append(results / f"{stem.name}-{path.name}")
            Image.open(path).quantize(_COLOURS).save(pictures[-1], optimize=True)
        elif path.name == "summary.csv":
            shutil.copyfile(path, stem.with_name(f"{stem.name}.csv"))
    page = stem.with_name(f"{stem.name}.md")
    known = page.read_text(encoding="utf-8").partition(_BY_HAND)[2] if page.exists() else "\n"
    lines = [*_page(folder, date, command, pictures), _BY_HAND]
    page.write_text("\n".join(lines) + known, encoding="utf-8")
    print(f"Written: {page}")


def _page(folder: Path, date: str, command: str, pictures: Iterable[Path]) -> Iterator[str]:
    suite = Suite.load(folder / SUITE)
    records = RunLog(folder / RUNS).records
    table = rows(suite, records)
    of, masks, planes = differences(suite, table), what_masks_add(suite, table), frontiers(suite, table)
    done = [record for row in table for record in row.finished.values()]
    said = list(dict.fromkeys(json.dumps(record["versions"]) for record in done))
    seconds = sum(sum(record["seconds"].values()) for record in done)
    memory = max(record["peak_memory_mib"] or 0 for record in done)
    yield f"# {suite.task.name}: {', '.join(suite.objectives)}"
    yield ""
    versions = "; ".join(", ".join(f"{name} {version}" for name, version in json.loads(each).items()) for each in said)
    took = f"{len(done)} runs in {seconds / 60:.0f} minutes, at most {memory:.0f} MiB"
    yield f"{date}. {hardware()}. {versions}. {took}."
    yield ""
    yield f"    {command}"
    yield ""
    yield f"{size(suite, table)} {answer(suite, table, planes, of, masks)}"
    yield ""
    yield from (f"- {sentence}" for sentence in sentences(suite, table, of, masks, planes))
    yield ""
    metrics = [each.name for each in suite.metrics if any(each.name in row.metrics for row in table)]
    yield from _table(["objective", *map(short, suite.sweeps), "seeds", *metrics], _cells(suite, table, metrics))
    for plane in planes:
        for measure in plane.measures:
            found = {each.name: each for each in measure.differences}
            body = [
                [name, shown(known), str(known.count)]
                + ([shown(found[name].estimate, "+"), f"{found[name].holm_seeds:.3g}"] if name in found else ["", ""])
                for name, known in measure.estimates.items()
            ]
            yield f"{measure.words}{at(plane.setting)}; difference from {suite.against}, p over seeds adjusted by Holm:"
            yield ""
            yield from _table(["objective", "value", "seeds", "difference", "p"], body)
    yield from (f"![{path.stem}]({path.name})\n" for path in pictures)


def _cells(suite: Suite, table: Iterable[Row], metrics: Sequence[str]) -> Iterator[list[str]]:
    for row in table:
        setting = dict(row.setting)
        places = [setting.get(field, "-") for field in suite.sweeps]
        yield [row.name, *places, str(len(row.finished)), *(shown(row.metrics.get(name)) for name in metrics)]


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> Iterator[str]:
    for line in (head, ["---"] * len(head), *body):
        yield f"| {' | '.join(line)} |"
    yield ""


if __name__ == "__main__":
    typer.run(publish)
