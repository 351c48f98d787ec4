"""prefopt demo: the suite that comes with the package, and every command of its documentation, in small."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from prefopt.cli.demo import SUITE
from prefopt.comparison.suite import Suite
from prefopt.tasks.models import train_small_model
from prefopt.tasks.scorers.corpus import corpus_reviews
from prefopt.zoo import build
from tests.cli.test_cli import run

DOCS = Path(__file__).parents[2] / "docs" / "demo.md"
COMMANDS = re.findall(r"^prefopt demo (\S.*?)(?:  +#.*)?$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
INPUTS = re.compile("seeds=|task.model=")
"""Commands that bring more than other values of what the suite has."""
SMALL = (
    "task.reviews=300",
    "task.reference_steps=20",
    "task.train_prompts=12",
    "task.held_out=4",
    "task.samples=4",
    "task.generation.samples=2",
    "task.generation.max_new_tokens=12",
    "training.max_steps=2",
    "training.per_device_train_batch_size=4",
    "seeds=[0]",
)

pytestmark = pytest.mark.slow


def demo(out: Path, *overrides: str, exit_code: int = 0) -> str:
    return run("demo", *overrides, "--out", str(out), exit_code=exit_code)


def records(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["name"]: record for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo in small: its folder, and what it printed."""
    out = tmp_path_factory.mktemp("demo")
    return out, demo(out, *SMALL)


@pytest.fixture(scope="module")
def user_files(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documentation names, and a model."""
    folder = tmp_path_factory.mktemp("own")
    train_small_model(corpus_reviews(300, seed=0), folder / "model", steps=20, seed=0)
    things = "film plot lamp phone case cast".split()
    (folder / "prompts.txt").write_text("".join(f"The {thing} was\n" for thing in things))
    (folder / "words.json").write_text('{"positive": ["the", "was", "very"], "negative": ["and", "My", "so", "We"]}')
    (folder / "pairs.jsonl").write_text((material(finished[0]) / "train.jsonl").read_text())
    return folder


def material(out: Path) -> Path:
    (folder,) = (out / "material").glob("sentiment-*")
    return folder


def test_it_says_where_the_page_is_and_the_page_has_its_figures(finished: tuple[Path, str]) -> None:
    out, printed = finished
    assert "3/3  SparsePO, seed 0: reward" in printed
    assert f"The page: {out / 'report.html'}" in printed
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Of what is measured, " in page  # with one run each, no reward is read between runs
    for metric in ("reward", "sequence kl", "accuracy", "mean w", "sparsity w", "auroc w"):
        assert metric in page
    assert {"DPO", "SparsePO", "reference"} == set(records(out))


def test_known_words_are_marked_and_uniform_weights_cannot_tell_them(finished: tuple[Path, str]) -> None:
    finished_records = records(finished[0])
    assert set(finished_records["DPO"]["values"]["auroc_w"].values()) == {0.5}
    assert "auroc_v" in finished_records["SparsePO"]["values"]
    for pair in finished_records["SparsePO"]["heat_maps"]:
        for side in ("chosen", "rejected"):
            assert len(pair[side]["marked"]) == len(pair[side]["tokens"]) == len(pair[side]["w"])


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=() if INPUTS.search(c) else pytest.mark.long) for c in COMMANDS]
)
def test_the_commands_of_the_documentation(
    command: str, user_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(user_files)
    model = str(user_files / "model")
    overrides = [word.replace("NAME", model) for word in shlex.split(command.partition(" --out")[0])]
    small = [text for text in SMALL if "seeds" not in command or "seeds" not in text]
    # A model of one's own is not trained on the corpus, whose settings then have no effect.
    demo(tmp_path, *overrides, *small, "task.held_out=2")
    suite = Suite.load(tmp_path / "suite.yaml")
    assert suite.task.model == (model if "task.model" in command else None)
    assert suite.task.marks is not None
    assert {"DPO", "SparsePO", "reference"} == set(records(tmp_path))
    if "task.pairs" in command:
        given = [json.loads(line)["prompt"] for line in (user_files / "pairs.jsonl").read_text().splitlines()]
        assert set(records(tmp_path)["DPO"]["samples"]) <= set(given)


def test_what_cannot_be_used_is_said(tmp_path: Path, user_files: Path) -> None:
    assert "set one of `prompts`, `pairs` and `rated`" in demo(tmp_path, "task.model=some/model", exit_code=2)
    assert "Set `model` as well" in demo(tmp_path, f"task.prompts={user_files / 'prompts.txt'}", exit_code=2)
    (user_files / "rare.json").write_text('{"positive": ["zebra"], "negative": ["gnu"]}')
    rare = demo(tmp_path / "out", *SMALL, f"task.scorer.file={user_files / 'rare.json'}", exit_code=2)
    assert "gave no pair: no two responses" in rare


def test_the_suite_is_the_one_documented() -> None:
    suite = Suite.load(SUITE)
    assert len(suite.seeds) == 1  # that it stays under 3 minutes on 2 cores
    assert suite.task.scorer_judges
    sparsepo = build(suite.objectives["SparsePO"].objective)
    assert (sparsepo.weighting.position, sparsepo.weighting.init) == ("token", "near_one")
    assert len(COMMANDS) >= 6
