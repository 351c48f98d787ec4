"""A package written from the page on plugins, and from nothing else, does all that a plugin has to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.plugins.environments import ROOT, Environment

pytestmark = pytest.mark.outside

LIFE = Path(__file__).with_name("life.py")

RIVAL = """
from typing import Literal

from prefopt.component import TokenWeighting
from prefopt.hookspecs import hookimpl


class Rival(TokenWeighting):
    name: Literal["{name}"] = "{name}"

    def __call__(self, tokens):
        return tokens.mask.to(tokens.logps.dtype)


@hookimpl
def prefopt_token_weightings():
    return [Rival]
"""


@pytest.fixture(scope="module")
def environment(prefopt_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """One with prefopt and the package that the page shows, file by file."""
    page = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    files = re.findall(r"^\*\*`([^`]+)`\*\*\n\n```\w+\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    package = tmp_path_factory.mktemp("written") / "prefopt-decay"
    for name, text in files:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    return Environment.create(tmp_path_factory.mktemp("tutorial") / "environment", [prefopt_wheel, package])


@pytest.fixture(scope="module")
def data(rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.json"
    path.write_text(json.dumps(rows))
    return path


def test_it_is_listed_checked_and_trained_by_its_name(
    environment: Environment, data: Path, model_folder: str, tmp_path: Path
) -> None:
    assert re.search(r"decay .*prefopt-decay", environment.command("prefopt", "components", "token-weighting"))
    assert "none failed" in environment.forked_command("prefopt", "check", "decay", "gamma=0.9", cwd=tmp_path)
    training = {"max_steps": 2, "report_to": "none", "use_cpu": True, "output_dir": "out", "save_strategy": "no"}
    fields = {"model": model_folder, "data": {"train": str(data)}, "objective": "dpo", "training": training}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields))
    output = environment.forked_command(
        "prefopt", "train", "run.yaml", "objective.weighting.name=decay", "objective.weighting.gamma=0.5", cwd=tmp_path
    )
    assert "Saved in" in output
    run = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert run["objective"]["weighting"] == {"name": "decay", "gamma": 0.5}
    assert run["components"]["token weighting decay"] == "prefopt-decay 0.1.0"


def test_it_is_saved_loaded_and_resumed_and_trains_adapters(
    environment: Environment, data: Path, model_folder: str, tmp_path: Path
) -> None:
    environment.run_file(LIFE, model_folder, data, tmp_path, cwd=tmp_path)


def test_two_plugins_that_clash_are_told_apart(environment: Environment, tmp_path: Path) -> None:
    """With an entry point of the same name both are there; a component of the same name is an error with both."""
    package = tmp_path / "prefopt-rival"
    package.mkdir()
    project = {"name": "prefopt-rival", "version": "0.1.0"}
    lines = ["[project]", *(f'{key} = "{value}"' for key, value in project.items())]
    lines += ["[project.entry-points.prefopt]", 'decay = "prefopt_rival"']
    lines += ["[tool.setuptools]", 'py-modules = ["prefopt_rival"]']
    (package / "pyproject.toml").write_text("\n".join(lines))
    (package / "prefopt_rival.py").write_text(RIVAL.format(name="rival"))
    environment.install(package)
    components = ("prefopt", "components", "token-weighting")
    listing = environment.forked_command(*components, cwd=tmp_path)
    assert re.search(r"decay .*prefopt-decay", listing)
    assert re.search(r"rival .*prefopt-rival", listing)
    (package / "prefopt_rival.py").write_text(RIVAL.format(name="decay"))
    environment.install(package)
    output = environment.forked_command(*components, exit_code=2, cwd=tmp_path)
    assert "two components of kind token weighting are named 'decay'" in output
    assert "plugin prefopt-decay:decay" in output
    assert "plugin prefopt-rival:decay" in output
