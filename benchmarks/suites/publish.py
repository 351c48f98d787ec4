"""From the folder of a comparison to dated results: a page, its figures as CSV, and the pictures.

    python -m benchmarks.suites.publish runs/sentiment-twin --command "prefopt compare ..."

What was written by hand below "What it shows" is kept when the page is made anew. Samples are left out, which of some
data are not for a public page; they are in the folder's report.html.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from benchmarks.machine import hardware
from benchmarks.markdown import table
from prefopt.comparison.results import Results
from prefopt.report import report
from prefopt.report.format import at, p_value, short, shown
from prefopt.report.further import sentences, size
from prefopt.report.headline import headline, notes

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
    by_hand = page.read_text(encoding="utf-8").partition(_BY_HAND)[2] if page.exists() else "\n"
    lines = [*_page(folder, date, command, pictures), _BY_HAND]
    page.write_text("\n".join(lines) + by_hand, encoding="utf-8")
    print(f"Written: {page}")


def _page(folder: Path, date: str, command: str, pictures: Iterable[Path]) -> Iterator[str]:
    results = Results.load(folder)
    suite, rows = results.suite, results.rows
    records = [record for row in rows for record in row.finished.values()]
    texts = [", ".join(f"{name} {version}" for name, version in record["versions"].items()) for record in records]
    seconds = sum(sum(record["seconds"].values()) for record in records)
    memory = max(record["peak_memory_mib"] or 0 for record in records)
    yield f"# {suite.task.title}: {', '.join(suite.objectives)}"
    yield ""
    duration = f"{len(records)} runs in {seconds / 60:.0f} minutes, at most {memory:.0f} MiB"
    yield f"{date}. {hardware()}. {'; '.join(dict.fromkeys(texts))}. {duration}."
    yield ""
    yield f"    {command}"
    yield ""
    yield headline(results)
    yield ""
    yield size(results)
    yield ""
    yield from (f"- {sentence}" for sentence in (*notes(results), *sentences(results)))
    yield ""
    metrics = [metric.name for metric in suite.metrics if any(metric.name in row.metrics for row in rows)]
    yield from table(["objective", *map(short, suite.sweeps), "seeds", *metrics], _cells(results, metrics))
    yield ""
    for plane in results.planes:
        for measure in plane.measures:
            differences = {difference.name: difference for difference in measure.differences}
            body = []
            for name, estimate in measure.estimates.items():
                d = differences.get(name)
                body.append([name, shown(estimate), str(estimate.count)])
                body[-1] += ["", ""] if d is None else [shown(d.estimate, "+"), p_value(d.p)]
            yield f"{measure.words}{at(plane.setting)}; difference from {suite.against}, adjusted p:"
            yield ""
            yield from table(["objective", "value", "seeds", "difference", "p"], body)
            yield ""
    yield from (f"![{path.stem}]({path.name})\n" for path in pictures)


def _cells(results: Results, metrics: Sequence[str]) -> Iterator[list[str]]:
    for row in results.rows:
        setting = dict(row.setting)
        values = [setting.get(field, "-") for field in results.suite.sweeps]
        yield [row.name, *values, str(len(row.finished)), *(shown(row.metrics.get(name)) for name in metrics)]


if __name__ == "__main__":
    typer.run(publish)
