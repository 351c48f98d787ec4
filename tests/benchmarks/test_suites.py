"""The suites that come with the project hold together, as far as that can be told without models; what is published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.suites.publish import publish
from prefopt.comparison.suite import Suite
from prefopt.tasks import AnnotatedTask
from prefopt.tasks.registry import resolve_task
from tests.comparison.made import made

pytestmark = pytest.mark.slow

SUITES = Path(__file__).parents[2] / "benchmarks" / "suites"


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_suite_holds_together(
    path: Path, monkeypatch: pytest.MonkeyPatch, code_plugin: None, lexicon_plugin: None
) -> None:
    monkeypatch.setenv("PREFOPT_SHARED", "/a/folder/of/inputs")
    suite = Suite.load(path)
    assert suite.has_plane
    assert len(suite.runs()) > len(suite.seeds) * len(suite.objectives)
    task = suite.task.task if isinstance(suite.task, AnnotatedTask) else suite.task
    assert task.name in path.stem
    assert suite.task.title.startswith(task.name)


def test_pages_call_a_task_by_the_inner_one(lexicon_plugin: None) -> None:
    task = {"name": "marked", "words": ["never"], "task": "planted"}
    suite = Suite.model_validate({"task": task, "objectives": {"dpo": "dpo"}})
    assert suite.task.title == "planted with the column lexicon (marked)"
    assert resolve_task(task | {"task": task, "column": "other"}).title == (
        "planted with the column lexicon (marked) with the column other (marked)"
    )


@pytest.mark.long
def test_what_was_found_is_published_and_what_was_written_of_it_kept(tmp_path: Path) -> None:
    folder, results = tmp_path / "little", tmp_path / "results"
    made(folder, seeds=[0, 1])
    publish(folder, "prefopt compare little.yaml", results, "2026-01-01")
    page = results / "2026-01-01-little.md"
    page.write_text(page.read_text() + "\nNothing much.\n")
    publish(folder, "prefopt compare other.yaml", results, "2026-01-01")
    text = page.read_text()
    assert "    prefopt compare other.yaml\n" in text
    assert text.endswith("## What it shows\n\nNothing much.\n")
    assert (results / "2026-01-01-little.csv").read_bytes() == (folder / "summary.csv").read_bytes()
    for picture in re.findall(r"\]\((.*?\.png)\)", text):
        assert (results / picture).stat().st_size > 0
    assert "](2026-01-01-little-frontier.png)" in text
