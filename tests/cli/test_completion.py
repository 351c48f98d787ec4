"""What a shell completes: the names that are installed, without an import of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from prefopt.cli import app, completion
from prefopt.cli.console import component_kinds, kind_name
from prefopt.registry import installed
from prefopt.tasks import Scorer, Task
from prefopt.tasks.registry import available_tasks
from prefopt.testing import CHECKS
from prefopt.zoo import ZOO
from prefopt.zoo.cards import equation_of
from tests.little_plugins import HALVING, Install


def names(completions: completion.Completions) -> list[str]:
    return [name for name, _ in completions]


def completed(line: str) -> list[str]:
    """What Bash gets for the last word of the line."""
    words = {"_PREFOPT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return CliRunner().invoke(app, env=words, prog_name="prefopt").output.split()


def test_names_are_those_that_are_installed() -> None:
    assert sorted(names(completion.objectives(""))) == sorted(ZOO)
    rows = {(cls.model_fields["name"].default, equation_of(cls)) for cls, _ in installed()}
    assert set(completion.components("")) == rows
    assert set(names(completion.tasks(""))) == set(available_tasks())
    assert names(completion.component_kinds("")) == list(component_kinds())
    assert set(names(completion.checks(""))) == {check.name for check in CHECKS}
    assert names(completion.kinds(""))[-2:] == [kind_name(Task), kind_name(Scorer)]


def test_names_of_plugins_are_completed_without_an_import(install: Install, tmp_path: Path) -> None:
    install("halving-plugin", f"{HALVING.format(name='halving')}\nraise RuntimeError('imported')\n")
    assert names(completion.components("hal")) == ["halving"]
    assert names(completion.plugins("")) == ["halving-plugin"]
    (tmp_path / "halving_plugin" / "__init__.py").unlink()
    (tmp_path / "halving_plugin").rmdir()
    assert names(completion.components("hal")) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("prefopt zoo sparsepo", ["sparsepo", "sparsepo_token"]),
        ("prefopt components ta", ["task"]),
        ("prefopt check forward", ["forward_kl"]),
        ("prefopt check robust --expect loss_is_b", ["loss_is_bounded_below"]),
        ("prefopt check sum --kind re", ["reward-shaping", "regularizer"]),
        ("prefopt train run.yaml obj", ["objective="]),
        ("prefopt train run.yaml objective=tdpo", ["objective=tdpo1", "objective=tdpo2"]),
        ("prefopt compare suite.yaml task=plan", ["task=planted"]),
        ("prefopt data check pairs.jsonl --objective orp", ["orpo"]),
        ("prefopt config tr", ["train"]),
    ],
)
def test_arguments_and_options_are_completed(line: str, expected: list[str]) -> None:
    assert completed(line) == expected
