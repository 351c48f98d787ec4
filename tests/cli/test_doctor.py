"""`prefopt doctor`: what is there, and what is wrong with it."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prefopt.cli import app
from prefopt.cli.doctor import EXTRAS
from prefopt.plugins import WITHOUT
from tests.little_plugins import HALVING, Install


def doctor(exit_code: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["doctor"])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_every_extra_has_a_purpose() -> None:
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        assert set(tomllib.load(file)["project"]["optional-dependencies"]) == set(EXTRAS)


def test_versions_extras_and_plugins_are_listed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    install("other-plugin", "raise RuntimeError('not to be imported')")
    monkeypatch.setenv(WITHOUT, "other-plugin")
    lines = [line.split() for line in doctor().splitlines()]
    assert ["torch", metadata.version("torch"), ">=2.6"] in lines
    assert "halving-plugin:components 1.0 halving".split() in lines
    assert f"other-plugin:components 1.0 excluded by {WITHOUT}".split() in lines
    assert ["bert-score", "without", "bert-score:"] in [line[:3] for line in lines] or metadata.version("bert-score")
    assert lines[-1] == ["Nothing", "is", "wrong."]


def test_each_fault_is_a_line(install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    install("broken-plugin", "import absent_module")
    install("odd-plugin", "PREFOPT_INTERFACE = '1'")
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    requirements = metadata.requires("prefopt") or []
    monkeypatch.setattr(metadata, "requires", lambda _: [*requirements, "pluggy>=99", "absent-package>=1"])
    output = doctor(exit_code=2)
    faults = [line.removeprefix("error: ") for line in output.splitlines() if line.startswith("error: ")]
    assert [fault.split(",")[0].split(" (")[0].partition(": ")[0] for fault in faults] == [
        f"pluggy is {metadata.version('pluggy')}",
        "absent-package is missing",
        f"{tmp_path}/file/hub",
        "plugin broken-plugin:components cannot be imported",
        "plugin odd-plugin:components",
    ]
    assert "pip install 'pluggy>=99'" in faults[0]
    assert "Not a directory" in faults[2]
    assert "name another folder as HF_HOME" in faults[2]
    assert "No module named 'absent_module'" in faults[3]
    assert "halving-plugin:components" in output
    assert "Nothing is wrong" not in output


def test_components_that_do_not_go_together_are_a_fault(install: Install) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    install("second-plugin", HALVING.format(name="halving"))
    assert "two components of kind token weighting are named 'halving'" in doctor(exit_code=2)
