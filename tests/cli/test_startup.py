"""What the command line imports before it has something to do."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from prefopt.cli import app

HEAVY = "torch numpy transformers datasets accelerate omegaconf jinja2 yaml pluggy"

SCRIPT = """
import sys
from prefopt.cli import app
try:
    app(sys.argv[1:], prog_name="prefopt")
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def imported(*arguments: str, **variables: str) -> set[str]:
    command, environment = [sys.executable, "-c", SCRIPT, *arguments], {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    libraries = set(done.stderr.split())
    assert "typer" in libraries
    return libraries


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_heavy_library(option: str) -> None:
    assert not imported(option) & {*HEAVY.split(), "pydantic"}


def test_completion_imports_no_heavy_library() -> None:
    words = {"COMP_WORDS": "prefopt check for", "COMP_CWORD": "2"}
    assert not imported(_PREFOPT_COMPLETE="complete_bash", **words) & set(HEAVY.split())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "compare", "data check"])
def test_the_help_of_a_command_imports_no_heavy_library(command: str) -> None:
    """typer itself imports pydantic for the types of a command's parameters."""
    assert not imported(*command.split(), "--help") & set(HEAVY.split())


@pytest.mark.parametrize("arguments", [["--version"], ["zoo", "sparspo"]])
def test_the_package_runs_as_a_module(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prefopt", *arguments])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("prefopt", run_name="__main__")
    captured = capsys.readouterr()
    command = CliRunner().invoke(app, arguments)
    assert (captured.out, captured.err, left.value.code) == (command.stdout, command.stderr, command.exit_code)
    assert f"prefopt {version('prefopt')} (Python 3." in captured.out or "Did you mean 'sparsepo'?" in captured.err
