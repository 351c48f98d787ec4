"""The table of token weightings: what is in it, and its figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from benchmarks.token_weights import page, settings
from benchmarks.token_weights.gains import by_seed
from prefopt.comparison.runner import compare
from prefopt.comparison.suite_fields import Plane
from prefopt.comparison.summary import Setting, frame
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


def test_a_gain_is_read_in_each_seed_at_the_middle_of_what_both_have() -> None:
    slopes = {"aimed": 2.0, "dpo": 1.0}
    spans = {"aimed": (1.0, 4.0), "dpo": (2.0, 9.0)}

    def lines(name: str, seed: int) -> Iterator[tuple[str, Setting, str, int, str, float]]:
        for beta, distance in zip(("1.0", "0.3"), spans[name], strict=True):
            setting = (("objective.beta", beta),)
            distance *= seed + 1
            for item, more in (("prompt 0", 0.0), ("prompt 1", 1.0)):
                yield "sequence_kl", setting, name, seed, item, distance
                yield "reward", setting, name, seed, item, slopes[name] * distance**0.5 + more

    values = frame(line for name in slopes for seed in range(6) for line in lines(name, seed))
    suite = SimpleNamespace(plane=Plane(), seeds=range(6))
    rows = [
        SimpleNamespace(name=name, setting=(("objective.beta", beta),)) for name in slopes for beta in ("1.0", "0.3")
    ]
    (gain,) = by_seed(SimpleNamespace(suite=suite, values=values), "reward", "aimed", "dpo", rows)  # type: ignore[arg-type]
    # Both have from 2 to 4 times the seed's factor, whose middle is 8^(1/2) of it; lines are straight in its root.
    assert gain.by_seed
    assert gain.distance == pytest.approx(8**0.5 * 3.5)
    assert gain.difference.by_seed == pytest.approx([(8**0.5 * (seed + 1)) ** 0.5 for seed in range(6)])


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
