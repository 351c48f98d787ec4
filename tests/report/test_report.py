"""The report: its figures are those of the runs, in the page as in the files beside it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from prefopt.comparison.results import Results
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import COLUMNS, Estimate
from prefopt.report import report
from prefopt.report.files import summary as summary_of
from prefopt.report.format import p_value, shown, spaced
from prefopt.report.terminal import as_json, as_text
from tests.comparison.made import made
from tests.report.parsed import Chart, Page, Table

Lines = list[dict[str, str]]
BETA = "objective.beta"
AGAINST = ["difference", "difference_seeds", "p"]


def sheet(path: Path) -> Lines:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made")
    made(path, fail="tdpo1")
    report(path)
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def summary(folder: Path) -> Lines:
    return sheet(folder / "summary.csv")


def line_of(summary: Lines, **cells: str) -> dict[str, str]:
    (line,) = [line for line in summary if all(line[name] == value for name, value in cells.items())]
    return line


def body(table: Table) -> Iterator[tuple[dict[str, Any], list[str]]]:
    yield from (row for row in table.rows if row[1])


@pytest.mark.slow
def test_what_is_compared_with_its_control_alone_has_a_line(folder: Path) -> None:
    results = Results.load(folder)
    plane = results.planes[0]
    measure = plane.volume
    name = measure.control_differences[0].name
    others = {key: estimate for key, estimate in measure.estimates.items() if key != name}
    alone = replace(measure, estimates=others, differences=[d for d in measure.differences if d.name != name])
    vars(results)["planes"] = [replace(plane, volume=alone)]
    table = summary_of(results)
    (line,) = table[(table["metric"] == measure.words) & (table["objective"] == name)].to_dict("records")
    assert math.isnan(line["mean"])
    assert line["control_difference"] == measure.control_differences[0].estimate.mean


@pytest.mark.slow
def test_means_are_those_of_the_runs(folder: Path, summary: Lines) -> None:
    by_row: dict[tuple[str, str, str], list[float]] = {}
    for record in RunLog(folder / "runs.jsonl").records.values():
        for metric, values in record["values"].items():
            beta = json.dumps(record["setting"].get(BETA, "")).strip('"')
            by_row.setdefault((metric, record["name"], beta), []).append(fmean(values.values()))
    rows = {(line["metric"], line["objective"], line[BETA]): line for line in summary if line[BETA]}
    assert rows.keys() == {key for key in by_row if key[2]}
    for key, line in rows.items():
        assert float(line["mean"]) == pytest.approx(fmean(by_row[key]), rel=1e-12)
        assert int(line["seeds"]) == len(by_row[key]) == (2 if key[1] == "tdpo1" else 3)


def test_the_table_has_the_figures_of_the_file(page: Page, summary: Lines) -> None:
    metrics = {spaced(line["metric"]): line["metric"] for line in summary}
    count = 0
    for table in (*page.tables_of("figures"), *page.tables_of("other-figures")):
        for _, cells in body(table):
            row = dict(zip(table.head, cells, strict=True))
            for heading, value in row.items():
                if heading in metrics and value:
                    line = line_of(summary, metric=metrics[heading], objective=row["objective"], **{BETA: row["beta"]})
                    assert value == line["mean"]
                    count += 1
    (table,) = page.tables_of("figures")
    assert table.head == ["objective", "beta", "seeds", "reward", "sequence kl", "accuracy"]
    assert count == sum(" at " not in line["metric"] and " to " not in line["metric"] for line in summary)


@pytest.mark.parametrize(("kind", "prefix"), [("differences", ""), ("masks", "control_")])
def test_differences_at_a_setting(kind: str, prefix: str, page: Page, summary: Lines) -> None:
    tables = page.tables_of(kind)
    assert tables
    for table in tables:
        for _, (name, beta, *cells) in body(table):
            line = line_of(summary, metric=table.attributes["data-metric"], objective=name, **{BETA: beta})
            assert cells == [line[prefix + column] for column in AGAINST]
            assert line[f"{prefix}difference_high"] != "0.0"  # rows of zeros are folded
            assert line["control" if prefix else "baseline"] == (f"{name} control" if prefix else "dpo")


def test_differences_at_a_distance(page: Page, summary: Lines) -> None:
    (matched,), (volume,), (masks,) = (page.tables_of(kind) for kind in ("matched", "hypervolume", "matched-masks"))
    for table in (matched, volume):
        for attributes, (name, *cells) in body(table):
            if name != "tdpo1":
                line = line_of(summary, metric=attributes["data-metric"], objective=name)
                mean, difference, seeds, p = cells if table is volume else cells[1:]
                assert [mean, difference, seeds, p] == [line["mean"], line["difference"], line["seeds"], line["p"]]
            elif table is matched:  # which is not compared, as it failed in a seed
                assert cells[1:] == ["", "", "", ""]
    for attributes, (name, _, *cells) in body(masks):
        line = line_of(summary, metric=attributes["data-metric"], objective=name)
        assert cells == [line[f"control_{column}"] for column in AGAINST]
    assert {cells[0] for _, cells in body(masks)} == {"sparsepo", "two masks"}
    assert len({cells[1] for _, cells in body(matched)}) == 3


@pytest.mark.parametrize("name", ["frontier", "sparsity"])
def test_marks_are_the_points_of_the_file(name: str, folder: Path, page: Page, summary: Lines) -> None:
    lines = sheet(folder / f"{name}.csv")
    charts = [chart for chart in page.charts if chart.attributes["data-plot"] == name]
    for chart in charts:
        figure = chart.attributes["data-figure"]
        drawn = {(mark["data-name"], mark["data-y"]) for mark in chart.marks}
        assert drawn == {(line["objective"], line["mean"]) for line in lines if line["figure"] == figure}
        for mark in chart.marks:
            label = value(chart.x_ticks, float(mark["cx"])) if name == "frontier" else None
            assert label is None or label == pytest.approx(float(mark["data-x"]), abs=0.02)
            assert value(chart.y_ticks, float(mark["cy"])) == pytest.approx(float(mark["data-y"]), abs=0.01)
    assert len(lines) > 12
    for line in lines:
        figures = line_of(summary, metric=line["figure"], objective=line["objective"], **{BETA: line[BETA]})
        assert [line[end] for end in ("mean", "low", "high", "seeds")] == [
            figures[end] for end in ("mean", "low", "high", "seeds")
        ]


@pytest.mark.parametrize("name", ["divergence", "curves"])
def test_lines_are_the_points_of_the_file(name: str, folder: Path, page: Page) -> None:
    lines = sheet(folder / f"{name}.csv")
    x = {"divergence": "token", "curves": "step"}[name]
    charts = [chart for chart in page.charts if chart.attributes["data-plot"] == name]
    betas = ["0.1", "0.3", "1.0"]
    assert len(charts) == len(betas) * 2
    for number, chart in enumerate(charts):
        for drawn in chart.lines:
            expected = [
                (float(line[x]), float(line["mean"]))
                for line in lines
                if (line["figure"], line["objective"], line[BETA])
                == (chart.attributes["data-figure"], drawn["data-name"], betas[number // 2])
            ]
            points = [tuple(map(float, point.split(","))) for point in drawn["points"].split()]
            read = [(value(chart.x_ticks, left), value(chart.y_ticks, top)) for left, top in points]
            scale = value(chart.y_ticks, 0) - value(chart.y_ticks, 1)
            assert [x for x, _ in read] == pytest.approx([x for x, _ in expected], abs=0.2)
            assert [y for _, y in read] == pytest.approx([y for _, y in expected], abs=scale / 5)
    if name == "divergence":
        records = [
            r
            for r in RunLog(folder / "runs.jsonl").records.values()
            if (r["name"], r["setting"]) == ("dpo", {BETA: 0.1})
        ]
        third = fmean(record["profiles"]["divergence/chosen"][2] for record in records)
        point = line_of(lines, figure="divergence/chosen", objective="dpo", token="3", **{BETA: "0.1"})
        assert float(point["mean"]) == pytest.approx(third)
        assert float(point["low"]) <= third <= float(point["high"])


def value(ticks: list[tuple[float, str]], at: float) -> float:
    """The value at a coordinate of an axis, by its ticks."""
    (first, low), (last, high) = ticks[0], ticks[-1]
    return float(low) + (float(high) - float(low)) * (at - first) / (last - first)


def by_setting(page: Page) -> list[list[dict[str, Any]]]:
    """The objectives of each setting in the token view, each with its pairs."""
    settings: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for pair in json.loads(page.data["token-data"])["pairs"]:
        settings.setdefault(pair["setting"], {}).setdefault(pair["title"], []).append(pair)
    return [[{"name": name, "pairs": pairs} for name, pairs in rows.items()] for rows in settings.values()]


def test_heat_maps_are_the_records(folder: Path, page: Page) -> None:
    settings = by_setting(page)
    records = RunLog(folder / "runs.jsonl").records.values()
    assert [row["name"].partition(" (")[0] for row in settings[1]] == [
        f"{name}, beta 0.3"
        for name in ("dpo", "tdpo1", "sparsepo", "sparsepo control", "two masks", "two masks control")
    ]
    for beta, rows in zip((0.1, 0.3, 1.0), settings, strict=True):
        for row in rows:
            name = row["name"].partition(",")[0]
            assert "(sequence kl " in row["name"]
            (record,) = [r for r in records if (r["name"], r["setting"], r["seed"]) == (name, {BETA: beta}, 0)]
            for pair, heat_map in zip(row["pairs"], record["heat_maps"], strict=True):
                for side in ("chosen", "rejected"):
                    for field in ("tokens", "marked"):
                        assert pair[side][field] == heat_map[side].get(field)
                    for layer in ("w", "v", "divergence", "log_ratio"):
                        expected = heat_map[side][layer]
                        assert pair[side]["values"][layer] == (expected and pytest.approx(expected, rel=5e-4))


def test_the_page_has_headline_and_sections(folder: Path, page: Page) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    every = "samples tokens frontier masks figures differences sparsity divergence curves failed repeat".split()
    assert page.sections == every
    assert all(f'href="#{name}"' in text for name in every)
    answer = text.partition('<p class="answer">')[2].partition("</p>")[0]
    assert "from the reference, no objective can be told from dpo; two masks has the highest reward, " in answer
    assert "The difference of two masks from dpo, on the same 3 seeds, is +" in answer
    assert "3 seeds cannot tell objectives apart: no p over them is below 0.25" in answer
    assert answer.count(". ") == 2  # three sentences
    assert "Against its control without a mask, sparsepo has +" in text
    assert "runs missing: tdpo1 (2 of 3 seeds)." in text
    assert "<script>alert" not in text
    assert "<b>bold" not in text
    assert "57 runs, 54 of them finished, 3 failed." in text
    assert text.count("RuntimeError: out of &lt;luck&gt; &amp; memory") == 6


@pytest.mark.slow
def test_an_objective_of_its_own_betas_is_shown_beside_the_others(tmp_path: Path) -> None:
    objectives = {"dpo": "dpo", "masked": {"zoo": "sparsepo", "sweeps": {BETA: [1.0, 3.0]}}}
    made(tmp_path, objectives=objectives, sweeps={BETA: [0.1, 0.3]}, seeds=[0])
    report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [[row["name"].partition(" (")[0] for row in rows] for rows in by_setting(page)] == [
        ["dpo, beta 0.1", "masked, beta 1.0", "masked control, beta 1.0"],
        ["dpo, beta 0.3", "masked, beta 3.0", "masked control, beta 3.0"],
    ]
    betas = {(line["objective"], line[BETA]) for line in sheet(tmp_path / "divergence.csv")}
    masked = {(name, beta) for name in ("masked", "masked control") for beta in ("1.0", "3.0")}
    assert betas == masked | {("dpo", "0.1"), ("dpo", "0.3")}
    assert not page.tables_of("differences")  # there is no setting that both have
    assert not page.tables_of("matched")  # nor a distance
    assert "Not at the same distance from the reference: sequence kl is " in text
    assert "no runs on both sides of a common sequence kl" in text


@pytest.mark.slow
def test_without_a_plane_or_masks_there_is_less(tmp_path: Path) -> None:
    suite = made(tmp_path, objectives={"dpo": "dpo", "tdpo1": "tdpo1"}, sweeps={}, seeds=[0])
    log = (tmp_path / "runs.jsonl").read_text().splitlines()
    stripped = [json.loads(line) for line in log]
    for record in stripped:
        record["values"].pop("sequence_kl")
        # As records were before these were measured.
        del record["profiles"], record["heat_maps"], record["digest"], record["sha256"]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in stripped))
    (tmp_path / "sparsity.png").write_text("of an earlier suite")
    written = {path.name for path in report(tmp_path)}
    assert {"report.html", "summary.csv", "curves.csv"} <= written
    assert not {"frontier.csv", "sparsity.csv", "divergence.csv"} & written
    assert not (tmp_path / "sparsity.png").exists()
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.sections == ["samples", "figures", "differences", "curves", "repeat"]
    assert "Of what is measured, no objective can be told from dpo" in (tmp_path / "report.html").read_text()
    assert page.charts[0].attributes["data-plot"] == "standings"
    assert Suite.load(tmp_path / "suite.yaml") == suite


def test_every_mark_is_inside_its_chart(page: Page) -> None:
    assert {chart.attributes["data-plot"] for chart in page.charts} == {"frontier", "sparsity", "divergence", "curves"}

    def inside(chart: Chart) -> Iterator[tuple[float, float]]:
        yield from ((float(mark["cx"]), float(mark["cy"])) for mark in chart.marks)
        for line in chart.lines:
            for point in line["points"].split():
                left, top = point.split(",")
                yield float(left), float(top)

    for chart in page.charts:
        width, height = (480, 300) if chart.attributes["data-plot"] == "frontier" else (360, 210)
        points = list(inside(chart))
        assert points
        assert all(0 <= left <= width and 0 <= top <= height for left, top in points)


@pytest.mark.slow
def test_text_and_json_are_of_the_same_figures_as_the_page(folder: Path, page: Page, summary: Lines) -> None:
    results = Results.load(folder)
    text, document = as_text(results), json.loads(as_json(results))
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert text.startswith(document["headline"])
    assert f'<p class="answer">{document["headline"]}</p>' in html
    table = [line.split("  ")[0] for line in text.split("\n\n")[1].splitlines()]
    assert table == ["objective", *(line["objective"] for line in document["verdict"]["standings"])]
    for line in document["verdict"]["differences"]:
        words = f"reward at sequence kl {document['verdict']['distance']:g}"
        matched = line_of(summary, metric=words, objective=line["objective"])
        assert float(matched["difference"]) == pytest.approx(line["mean"]) == pytest.approx(fmean(line["by_seed"]))
        assert float(matched["p"]) == line["p"]
    assert len(document["summary"]) == len(summary)
    assert len(document["values"]) == len(results.values)
    assert document["values"][0].keys() == set(COLUMNS)


def test_figures_have_the_digits_that_their_interval_makes_certain() -> None:
    def estimate(mean: float, half: float | None) -> Estimate:
        return Estimate(mean, None if half is None else mean - half, None if half is None else mean + half, "seeds", 6)

    expected = {
        (3.4412, 0.07): "3.44 [3.37, 3.51]",
        (3.4412, 0.021): "3.441 [3.420, 3.462]",
        (4.5, 6.4): "4 [-2, 11]",
        (1234.0, 56.0): "1230 [1180, 1290]",
        (-0.0004, 0.5): "0.0 [-0.5, 0.5]",
        (0.25, 0.0): "0.25",
        (0.25, None): "0.25",
        (12.345678, 1e-9): "12.35 [12.35, 12.35]",
        (-0.037, 0.0355): "-0.037 [-0.072, -0.002]",  # 0 is not in it, nor in what is shown of it
        (5.003, 5.0): "5.003 [0.003, 10.003]",
    }
    assert {key: shown(estimate(*key)) for key in expected} == expected
    assert shown(estimate(0.5, 0.1), "+") == "+0.50 [+0.40, +0.60]"
    assert [p_value(p) for p in (None, 1.0, 0.03125, 0.0001)] == ["-", "1", "0.031", "<0.001"]


@pytest.mark.slow
def test_where_nothing_differs_no_best_is_named(tmp_path: Path) -> None:
    suite = made(tmp_path, objectives={"dpo": "dpo", "tdpo1": "tdpo1"}, sweeps={}, seeds=[0, 1])
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    for record in records:
        del record["digest"], record["sha256"]
        for metric in ("reward", "accuracy"):
            record["values"][metric] = dict.fromkeys(record["values"][metric], 0.0)
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Of what is measured, nothing differs: dpo and tdpo1 have reward 0." in text
    assert "Nothing differs in reward and accuracy: all rows have the same." in text
    assert "Nothing differs in reward" in text.partition('<section id="differences">')[2]  # instead of a table
    assert "best is" not in text
    assert not [table for table in Page(text).tables_of("differences") if table.attributes["data-metric"] == "reward"]
    assert suite.seeds == [0, 1]
