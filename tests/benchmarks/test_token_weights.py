"""The table of token weightings: what is in it, and its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.token_weights import page, settings
from prefopt.comparison.runner import compare
from prefopt.registry import installed


@pytest.mark.slow
def test_a_weighting_is_in_the_table_by_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, left_out = settings.weightings()
    assert {"entropy", "low_confidence", "sparse", "transport", settings.ORACLE} <= trained.keys()
    assert "column" in left_out
    assert "uniform" not in trained.keys() | left_out.keys()
    assert {owner.distribution for _, owner in installed()} >= {"prefopt"}
    monkeypatch.setenv("PREFOPT_SHARED", "shared")
    for setting, (_, _, columns) in settings.SETTINGS.items():
        if not columns:
            suite = settings.suite_of(setting, [0])
            assert suite.objectives.keys() == {"dpo", *trained, *(f"{name}, shuffled" for name in trained)}


@pytest.mark.slow
def test_weightings_that_read_columns_are_in_settings_of_their_own(tis_plugin: None) -> None:
    suite = settings.suite_of("few pairs, scored", [0])
    trained, left_out = settings.weightings(settings.SETTINGS["few pairs, scored"].columns)
    assert trained.keys() >= {"tis", "tis_rank", "tis_scale", "guided", "contrast"}
    assert not trained.keys() & settings.weightings()[0].keys()
    assert "column" in left_out
    guided = suite.objectives["guided"].model_dump(mode="json")
    assert "'column': 'guidance'" in str(guided)
    assert suite.task.model_dump()["epochs"] == suite.training["num_train_epochs"] == 8


@pytest.mark.long
def test_the_page_has_a_row_for_each_weighting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = {"name": "column", "column": "weights", "default": 0.0}
    for module in (settings, page):
        monkeypatch.setattr(
            module, "weightings", lambda columns=frozenset(): ({"oracle": oracle}, {"tis": "reads a column"})
        )
    task = {"pairs": 64, "held_out": 8, "prompts": 8, "reference_steps": 20}
    suite = settings.suite_of("few pairs", [0, 1], task=task, training={"num_train_epochs": 1})
    assert compare(suite, tmp_path / "few-pairs", console=Console(quiet=True), processes=1) == []
    written = list(page.lines({"few pairs": tmp_path / "few-pairs"}, "a command"))
    (row,) = [line for line in written if line.startswith("| `oracle`")]
    assert row.split(" | ")[1] == "1.000 (1.000 to 1.000)"
    assert written[-1] == "Not trained: `tis` reads a column."
