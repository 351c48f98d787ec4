"""Dotted overrides beside each other and over what a document holds: none is lost, in any order."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefopt import zoo
from prefopt.comparison.suite import Suite, SuiteError
from prefopt.training import RunFile, RunFileError

SLOTS = {"beta": 0.3, "divergence": None, "loss": {"name": "logistic", "label_smoothing": 0.1}}
MARGIN_2 = {"name": "hinge", "margin": 2}
TASK = {"name": "planted", "pairs": 16, "held_out": 4, "reference_steps": 2}


def run(folder: Path, *overrides: str, objective: object = "dpo", **sections: Any) -> RunFile:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"model": "gpt2", "data": "pairs.jsonl", "objective": objective} | sections))
    return RunFile.load(path, overrides)


def suite(folder: Path, *overrides: str) -> Suite:
    path = folder / "suite.yaml"
    sparsepo = {"zoo": "sparsepo", "training": {"mask_learning_rate": 5e-3}}
    objectives = {"dpo": "dpo", "slots": SLOTS, "sparsepo": sparsepo}
    path.write_text(yaml.safe_dump({"task": TASK, "objectives": objectives, "seeds": [0]}))
    return Suite.load(path, overrides)


@pytest.mark.parametrize(
    ("overrides", "objective"),
    [
        (["objective={loss: hinge}", "objective.loss.margin=2"], {"loss": MARGIN_2}),
        (["objective.loss=hinge", "objective.loss.margin=2"], {"loss": MARGIN_2}),
        (["objective.loss=hinge", "objective[loss][margin]=2"], {"loss": MARGIN_2}),
        (["objective.loss=hinge", "objective.loss={margin: 2}"], {"loss": MARGIN_2}),
        (["objective.loss={name: hinge}", "objective.loss.margin=2"], {"loss": MARGIN_2}),
        (["objective={loss: {name: hinge}}", "objective.loss.margin=2"], {"loss": MARGIN_2}),
        (["objective={loss: hinge}", "objective={loss: {margin: 2}}"], {"loss": MARGIN_2}),
        (["objective={loss: {name: hinge}}", "objective={loss: {margin: 2}}"], {"loss": MARGIN_2}),
        (["objective=hinge", "objective.beta=0.5"], {"zoo": "hinge", "beta": 0.5}),
        (["objective={zoo: hinge}", "objective={beta: 0.5}"], {"zoo": "hinge", "beta": 0.5}),
        (["objective=hinge", "objective.beta=0.5", "objective={loss: {margin: 2}}"], {"beta": 0.5, "loss": MARGIN_2}),
    ],
)
@pytest.mark.parametrize("given", ["dpo", {"zoo": "dpo", "beta": 0.3}, SLOTS], ids=["name", "row", "slots"])
def test_a_name_and_fields_of_one_component(
    tmp_path: Path, given: object, overrides: list[str], objective: dict[str, object]
) -> None:
    expected = {"beta": 0.1 if given == "dpo" else 0.3} | objective
    for order in permutations(overrides):
        assert run(tmp_path, *order, objective=given).objective == zoo.build(expected)


def test_of_two_values_the_later_is_taken(tmp_path: Path) -> None:
    margins = "objective.loss.margin=2", "objective={loss: {margin: 3}}"
    for order in (margins, margins[::-1]):
        loss = run(tmp_path, "objective.loss=hinge", *order).objective.loss
        assert loss == zoo.build({"loss": {"name": "hinge", "margin": 3 if order == margins else 2}}).loss


@pytest.mark.parametrize("row", ["tdpo2", "hinge", "simpo", "sparsepo"])
def test_a_row_replaces_slots_that_the_file_spells_out(tmp_path: Path, row: str) -> None:
    resolved = run(tmp_path, "objective.loss.label_smoothing=0.1").to_yaml()
    for given in (SLOTS, yaml.safe_load(resolved)["objective"]):
        assert run(tmp_path, f"objective={row}", objective=given).objective == zoo.build(row)
        assert run(tmp_path, f"objective={{zoo: {row}}}", objective=given).objective == zoo.build(row)


def test_entrants_and_tasks_keep_their_fields(tmp_path: Path) -> None:
    def objectives(*overrides: str) -> dict[str, Any]:
        return {run.key: run for run in suite(tmp_path, *overrides).runs() if run.objective is not None}

    def entrant(name: str, *overrides: str) -> Any:
        return next(run for run in objectives(*overrides).values() if run.name == name)

    for order in permutations(["objectives.ipo=ipo", "objectives.ipo.beta=0.5"]):
        assert entrant("ipo", *order).objective == zoo.ipo(0.5)
    for order in permutations(["objectives.dpo=ipo", "objectives.dpo={beta: 0.5}"]):
        assert entrant("dpo", *order).objective == zoo.ipo(0.5)
    for order in permutations(["objectives.dpo={loss: hinge}", "objectives.dpo.loss.margin=2"]):
        assert entrant("dpo", *order).objective == zoo.build({"zoo": "dpo", "loss": MARGIN_2})
    assert entrant("slots", "objectives.slots={zoo: hinge}").objective == zoo.hinge()
    changed = entrant("sparsepo", "objectives.sparsepo=sparsepo_token")
    assert (changed.objective, changed.training["mask_learning_rate"]) == (zoo.sparsepo_token(), 5e-3)
    assert suite(tmp_path, "task=planted").task == suite(tmp_path).task


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("training.max_steps=???", "??? stands for no value"),
        ("training=[1]", "it does not fit what is there"),
        ("training={}", "it changes nothing"),
        ("training={a", "its value is no YAML"),
        ("training", "write it as section.field=value"),
        ("=3", "write it as section.field=value"),
    ],
)
def test_an_override_that_cannot_be_laid_over_is_named(tmp_path: Path, override: str, reason: str) -> None:
    with pytest.raises(RunFileError) as caught:
        run(tmp_path, override, training={"max_steps": 2})
    assert str(caught.value).startswith(f"override {override!r}: {reason}")
    in_suite = override.replace("training", "objectives.sparsepo.training")
    with pytest.raises(SuiteError) as of_suite:
        suite(tmp_path, in_suite)
    assert str(of_suite.value).startswith(f"override {in_suite!r}: {reason}")


def test_a_section_that_comes_from_the_environment_is_written_as_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_MODEL", "/secret/place")
    loaded = run(tmp_path, model="${oc.env:MY_MODEL}")
    assert loaded.model.name == "/secret/place"
    assert yaml.safe_load(loaded.to_yaml())["model"]["name"] == "${oc.env:MY_MODEL}"


def test_a_name_of_the_environment_stays_beside_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, margin = "objective.loss=${oc.env:MY_LOSS}", "objective.loss.margin=2"
    for order in ((name, margin), (margin, name)):
        monkeypatch.setenv("MY_LOSS", "hinge")
        assert run(tmp_path, *order).objective == zoo.build({"zoo": "dpo", "loss": MARGIN_2})
        monkeypatch.delenv("MY_LOSS")
        with pytest.raises(RunFileError, match="MY_LOSS, which is not set"):
            run(tmp_path, *order)
