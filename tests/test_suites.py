"""The suites that come with the project can be carried out as they are, as far as that can be told without models."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefopt.comparison.suite import Suite

SUITES = Path(__file__).parent.parent / "benchmarks" / "suites"


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_suite_holds_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFOPT_SHARED", "/a/folder/of/inputs")
    suite = Suite.load(path)
    assert suite.has_plane
    assert len(suite.runs()) > len(suite.seeds) * len(suite.objectives)
    assert suite.task.name in path.stem
