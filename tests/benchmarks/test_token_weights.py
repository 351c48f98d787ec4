"""The table of token weightings: what is in it, and its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import token_weights
from prefopt.comparison.runner import compare
from prefopt.registry import installed


@pytest.mark.slow
def test_a_weighting_is_in_the_table_by_being_installed() -> None:
    trained, left_out = token_weights.weightings()
    assert {"entropy", "low_confidence", "sparse", "transport", token_weights.ORACLE} <= trained.keys()
    assert "column" in left_out
    assert "uniform" not in trained.keys() | left_out.keys()
    assert {owner.distribution for _, owner in installed()} >= {"prefopt"}
    for setting in token_weights.SETTINGS:
        suite = token_weights.suite_of(setting, [0])
        assert suite.objectives.keys() == {"dpo", *trained, *(f"{name}, shuffled" for name in trained)}


@pytest.mark.long
def test_the_page_has_a_row_for_each_weighting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = {"name": "column", "column": "weights", "default": 0.0}
    monkeypatch.setattr(token_weights, "weightings", lambda: ({"oracle": oracle}, {"tis": "reads a column"}))
    task = {"pairs": 64, "held_out": 8, "prompts": 8, "reference_steps": 20}
    suite = token_weights.suite_of("few pairs", [0, 1], task=task, training={"num_train_epochs": 1})
    assert compare(suite, tmp_path / "few-pairs", console=Console(quiet=True), processes=1) == []
    page = list(token_weights.lines({"few pairs": tmp_path / "few-pairs"}, "a command"))
    (row,) = [line for line in page if line.startswith("| `oracle`")]
    assert row.split(" | ")[1] == "1.000 (1.000 to 1.000)"
    assert page[-1] == "Not trained: `tis` reads a column."
