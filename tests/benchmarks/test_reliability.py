"""The page of reliability shows every section's figures, and their sums."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability import page
from tests.reliability.figures import record


def test_figures_become_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no figures there"):
        page(tmp_path)
    monkeypatch.setenv("PREFOPT_RELIABILITY_OUT", str(tmp_path))
    record("kills", "training", tried=5, survived=4)
    record("kills", "training", tried=50, survived=50)  # of a later run
    record("kills", "rotation", tried=2, survived=1)
    record("memory", "20,000 steps", slope="0.1 KiB a step")
    text = page(tmp_path)
    assert "## Kills" in text
    for line in (
        "|  | tried | survived |",
        "| training | 50 | 50 |",
        "| rotation | 2 | 1 |",
        "| all | 52 | 51 |",
        "|  | slope |",
        "| 20,000 steps | 0.1 KiB a step |",
    ):
        assert line in text.splitlines()
    (tmp_path / "other.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(ValueError, match=r"other\.jsonl:1: a line has a section"):
        page(tmp_path)


def test_nothing_is_recorded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFOPT_RELIABILITY_OUT", raising=False)
    monkeypatch.chdir(tmp_path)
    record("kills", "training", tried=1)
    assert not list(tmp_path.iterdir())
