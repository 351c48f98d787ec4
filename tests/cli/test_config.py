"""`prefopt config`: the schemas take every run file and suite that there is, and refuse what is mistyped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

from prefopt import zoo
from prefopt.cli import app
from prefopt.training import RunFile
from tests.blocks import PAGES, blocks
from tests.json_schema import violations
from tests.little_plugins import HALVING, Install
from tests.test_docs import PARTS

ROOT = Path(__file__).parents[2]
SUITES = sorted([*ROOT.glob("prefopt/suites/*.yaml"), *ROOT.glob("benchmarks/suites/*.yaml")])


def schema(document: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["config", document])
    assert result.exit_code == 0, result.output
    read: dict[str, Any] = json.loads(result.stdout)
    return read


@pytest.fixture(scope="module")
def run_schema() -> dict[str, Any]:
    return schema("train")


def documents() -> Iterator[tuple[str, Any]]:
    """(where, what is read) of every whole YAML block of the pages, and every suite."""
    for block in (block for page in PAGES for block in blocks(page) if block.language == "yaml" and not block.not_run):
        document = OmegaConf.to_container(OmegaConf.create(block.text))
        if not document.keys() <= PARTS.keys():
            yield str(block), document
    for suite in SUITES:
        yield suite.name, OmegaConf.to_container(OmegaConf.load(suite))


@pytest.mark.usefixtures("code_plugin", "lexicon_plugin")
def test_every_document_fits(run_schema: dict[str, Any], model_folder: str) -> None:
    of_suites = schema("compare")
    objective = {"$ref": "#/$defs/Objective"}
    kinds: dict[str, list[str]] = {"model": [], "task": [], "objective": []}
    for where, document in documents():
        kind = next((key for key in ("model", "task") if key in document), "objective")
        kinds[kind].append(where)
        whole = of_suites if kind == "task" else run_schema
        problems = violations(document, objective if kind == "objective" else whole, whole)
        assert list(problems) == [], where
    assert len(kinds["model"]) > 5
    assert len(kinds["task"]) > len(SUITES)
    assert len(kinds["objective"]) > 2


def test_a_resolved_run_fits(run_schema: dict[str, Any]) -> None:
    for name in list(zoo.ZOO)[::9]:
        run = RunFile(
            model="gpt2", data="pairs.jsonl", objective=name, training={"max_steps": 1, "eval_strategy": "no"}
        )
        written = OmegaConf.to_container(OmegaConf.create(run.to_yaml()))
        assert list(violations(written, run_schema, run_schema)) == [], name


RUN = {"model": "gpt2", "data": "pairs.jsonl", "objective": "dpo"}


def test_a_list_of_sources_fits(run_schema: dict[str, Any]) -> None:
    sources = {"data": ["a.jsonl", {"path": "b", "split": "train_prefs"}]}
    assert list(violations(RUN | sources, run_schema, run_schema)) == []


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"trainin": {}}, ".trainin"),
        ({"data": {"trian": "pairs.jsonl"}}, ".data.trian"),
        ({"data": {"train": "pairs.jsonl", "max_length": "long"}}, ".data.max_length"),
        ({"data": {"train": [{"path": "a", "fraction": 1.5}]}}, ".data.train.0.fraction"),
        ({"data": ["a", {"path": "b", "fraction": 1.5}]}, ".data.1.fraction"),
        ({"model": {"name": "gpt2", "peft": {"rank": 8}}}, ".model.peft.rank"),
        ({"objective": "dppo"}, ".objective"),
        ({"objective": {"zoo": "dpo", "betta": 1.0}}, ".objective"),
        ({"objective": {"zoo": "dpo", "beta": True}}, ".objective"),
        ({"objective": {"zoo": "sparsepo", "weighting": {"positon": "token"}}}, ".objective"),
        ({"objective": {"zoo": "sparsepo", "weighting": {"position": "tokens"}}}, ".objective"),
        ({"objective": {"weighting": {"hidden_width": 8}}}, ".objective.weighting"),
        ({"objective": {"loss": "logistics"}}, ".objective.loss"),
        ({"training": {"learning_rat": 1e-6}}, ".training.learning_rat"),
        ({"training": {"learning_rate": "fast"}}, ".training.learning_rate"),
        ({"training": {"max_steps": 1.5}}, ".training.max_steps"),
        ({"training": {"max_length": 512}}, ".training.max_length"),
    ],
)
def test_what_is_mistyped_is_refused_where_it_is(run_schema: dict[str, Any], changes: Any, where: str) -> None:
    assert list(violations(RUN, run_schema, run_schema)) == []
    problems = list(violations(RUN | changes, run_schema, run_schema))
    assert len(problems) == 1
    assert problems[0].startswith(where)


def test_fields_have_a_default_and_a_meaning(run_schema: dict[str, Any]) -> None:
    for section in ("ModelSection", "DataSection", "DataSource", "PreferenceConfig", "LoraConfig"):
        for name, field in run_schema["$defs"][section]["properties"].items():
            assert field.get("description"), f"{section}.{name}"
    fields = run_schema["$defs"]["PreferenceConfig"]["properties"]
    assert (fields["learning_rate"]["default"], fields["mask_weight_decay"]["default"]) == (1e-6, 0.01)
    assert "is refused" in fields["neftune_noise_alpha"]["description"]
    files = run_schema["$defs"]["DataSource"]["properties"]["data_files"]["description"]
    assert files == "of `datasets.load_dataset`, for the hub and folders of data files; name is the configuration"


def test_components_of_plugins_are_in_it(install: Install) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    whole = schema("train")
    objective = {"weighting": {"name": "halving", "power": 2}}
    assert list(violations(RUN | {"objective": objective}, whole, whole)) == []
    objective = {"zoo": "dpo", "weighting": {"name": "halving", "powder": 2}}
    assert len(list(violations(RUN | {"objective": objective}, whole, whole))) == 1
