"""Dotted overrides beside each other and over what a document holds: none is lost, in any order."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from prefopt import zoo
from prefopt.comparison.suite import Suite, SuiteError
from prefopt.training import RunFile, RunFileError
from prefopt.training.overrides import Sections, with_origin

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


def test_a_list_is_the_sources_of_train_in_a_file_too(tmp_path: Path) -> None:
    second = {"path": "b", "split": "x"}
    expected = run(tmp_path, data={"train": ["a", second]}).data
    assert [source.path for source in expected.train] == ["a", "b"]
    assert run(tmp_path, data=["a", second]).data == expected
    assert run(tmp_path, "data=[a, {path: b, split: x}]").data == expected
    assert RunFile(model="gpt2", data=["a", second], objective="dpo").data == expected
    assert run(tmp_path, "data.max_length=64", data=["a", "b"]).data.max_length == 64
    for override in ("data=c", "data=[c]"):
        assert run(tmp_path, override, data=["a", "b"]).data == run(tmp_path, data="c").data
    with pytest.raises(RunFileError, match=r"data\.train: at least 1 is needed, got \[\]$"):
        run(tmp_path, data=[])
    with pytest.raises(RunFileError, match=r"model: a mapping is needed, got \['a'\]$"):
        run(tmp_path, model=["a"])


HELD = {"data": {"train": "a", "eval": "held"}}


@pytest.mark.parametrize(
    ("override", "sections", "where", "value", "whole"),
    [
        ("data.eval.chat=c", HELD, "data.eval", "held", "{chat: c}"),
        ("data.train.split=x", {}, "data.train", "pairs.jsonl", "{split: x}"),
        ("data[train][0]=x", {}, "data.train", "pairs.jsonl", "[x]"),
        ("data.eval.a.path=x", HELD, "data.eval", "held", "{a: {path: x}}"),
        ("objective.beta.x=1", {"objective": {"zoo": "dpo", "beta": 0.3}}, "objective.beta", 0.3, "{x: 1}"),
        ("training.fsdp_config.x=1", {"training": {"fsdp_config": "f"}}, "training.fsdp_config", "f", "{x: 1}"),
        ("data.eval.a=x", {"data": {"eval": "${oc.env:ABSENT}"}}, "data.eval", "${oc.env:ABSENT}", "{a: x}"),
    ],
)
def test_a_field_replaces_no_value(
    tmp_path: Path, override: str, sections: dict[str, Any], where: str, value: object, whole: str
) -> None:
    with pytest.raises(RunFileError) as caught:
        run(tmp_path, override, **sections)
    remedy = f"{where} is {value!r}, which it would replace; to do so, give {where} whole: '{where}={whole}'"
    assert str(caught.value) == f"override {override!r}: {remedy}"


def test_what_is_given_whole_replaces_a_value(tmp_path: Path) -> None:
    expected = run(tmp_path, data={"train": "a", "eval": {"chat": "c"}}).data
    for overrides in (["data.eval={chat: c}"], ["data={eval: {chat: c}}"], ["data.eval=null", "data.eval.chat=c"]):
        assert run(tmp_path, *overrides, **HELD).data == expected
    both = run(tmp_path, "data.eval.chat=c", data={"train": "a", "eval": {"other": "o"}}).data.eval
    assert {name: source.path for name, source in both.items()} == {"other": "o", "chat": "c"}
    assert run(tmp_path, "model.peft.r=8", model={"name": "gpt2", "peft": None}).model.peft == {"r": 8}


def test_a_value_and_a_field_of_it_are_refused_in_any_order(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"^override 'data\.eval\.chat=c': data\.eval is 'held', which it would"):
        run(tmp_path, "data.eval=held", "data.eval.chat=c")
    with pytest.raises(RunFileError, match=r"^override 'data\.eval=held': it would replace what 'data\.eval\.chat=c'"):
        run(tmp_path, "data.eval.chat=c", "data.eval=held")


@pytest.mark.parametrize(
    ("fields", "overrides", "line"),
    [
        ({"weighting": {"hidden_width": 100}}, ["objective=hinge"], "weighting: uniform: hidden_width: no such field"),
        ({"weighting": {"hidden_width": 100}}, ["objective.zoo=hinge"], "weighting: uniform: hidden_width: no such"),
        ({"l1": 0.1}, ["objective=hinge"], "l1: hinge has no such parameter"),
        ({"beta": -1}, ["objective={zoo: hinge}"], "hinge: beta: more than 0 is needed, got -1.0. The file"),
    ],
)
def test_what_the_file_gave_another_row_is_told(
    tmp_path: Path, fields: dict[str, Any], overrides: list[str], line: str
) -> None:
    (name,) = fields
    stays = (
        f"The file gives {name} beside `zoo: sparsepo_token`, and it stays beside hinge: override it, or take it out."
    )
    with pytest.raises(RunFileError) as caught:
        run(tmp_path, *overrides, objective={"zoo": "sparsepo_token", **fields})
    assert f"run.yaml: objective: {line}" in str(caught.value)
    assert str(caught.value).endswith(f". {stays}")
    path = tmp_path / "suite.yaml"
    entrant = {"zoo": "sparsepo_token", **fields, "training": {"mask_learning_rate": 5e-3}}
    path.write_text(yaml.safe_dump({"task": TASK, "objectives": {"mine": entrant, "dpo": "dpo"}, "seeds": [0]}))
    in_suite = [override.replace("objective", "objectives.mine", 1) for override in overrides]
    with pytest.raises(SuiteError) as of_suite:
        Suite.load(path, in_suite)
    assert f"suite.yaml: objectives.mine: {line}" in str(of_suite.value)
    assert str(of_suite.value).count(stays) == 1


def test_each_field_that_the_file_gave_is_told() -> None:
    row = {"zoo": "dpo", "beta": -1, "loss": "hinge", "units": None}
    before = OmegaConf.create({"objective": row, "data": "beta"})
    after = OmegaConf.merge(before, {"objective": {"zoo": "ipo"}})
    gives, kept = "The file gives", "and it stays beside ipo: override it, or take it out."
    lines = with_origin(["objective: beta, loss", "data: beta."], before, after, Sections({}, rows=("objective",)))
    assert lines == [
        f"objective: beta, loss. {gives} beta beside `zoo: dpo`, {kept} {gives} loss beside `zoo: dpo`, {kept}",
        "data: beta.",
    ]
    assert with_origin(lines, before, before, Sections({}, rows=("objective",))) == lines


def test_what_the_override_gives_is_not_told_as_the_files(tmp_path: Path) -> None:
    given = {"zoo": "sparsepo_token", "weighting": {"hidden_width": 100}}
    assert run(tmp_path, "objective=hinge", "objective.weighting=uniform", objective=given).objective == zoo.hinge()
    for overrides in (["objective=hinge", "objective.beta=-1"], ["objective.weighting.hidden_width=-1"]):
        with pytest.raises(RunFileError) as caught:
            run(tmp_path, *overrides, objective=given)
        assert "The file gives" not in str(caught.value)
