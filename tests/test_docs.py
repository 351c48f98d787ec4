"""Every example of the documentation and the README runs, with a tiny model in the place of the named one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml

import docs_hooks
from prefopt import zoo
from prefopt.cli import app
from prefopt.cli.console import EXIT_CODES
from prefopt.comparison.suite import Suite
from prefopt.signals import SIGNALS
from prefopt.testing import CHECKS
from prefopt.training import RunFile

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
PLUGINS = {"code.md": "code_plugin"}
"""Pages of a plugin -> the fixture that installs it."""
EXTRAS = {"lm-eval.md": "lm_eval"}
"""Pages whose suites can be read only with an optional library -> that library."""
NAMED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, with as many blank lines before them as bring errors to the page's own lines."""
    text = page.read_text(encoding="utf-8")
    matches = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in matches]


def printed(page: Path) -> list[str | None]:
    """For each block of Python the text block that follows it at once, which is what it prints; None without one."""
    text = page.read_text(encoding="utf-8")
    matches = re.findall(r"^```python\n.*?^```$(?:\n\n```text\n(.*?)^```$)?", text, flags=re.DOTALL | re.MULTILINE)
    return [output or None for output in matches]


def test_there_are_pages() -> None:
    assert len(PAGES) >= 6
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run_and_print_what_the_page_says(
    page: Path,
    model_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if page.name in PLUGINS:
        request.getfixturevalue(PLUGINS[page.name])
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": f"docs_{page.stem}"}
    for block, output in zip(blocks(page, "python"), printed(page), strict=True):
        code = block.replace(NAMED_MODEL, model_folder)
        capsys.readouterr()
        exec(compile(code, str(page), "exec", dont_inherit=True), namespace)
        if output is not None:
            assert capsys.readouterr().out.splitlines() == output.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_examples_are_run_files_suites_or_objectives(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if page.name in PLUGINS:
        request.getfixturevalue(PLUGINS[page.name])
    if page.name in EXTRAS:
        pytest.importorskip(EXTRAS[page.name], reason=f"{page.name} is of an optional extra that is not installed")
    for block in blocks(page, "yaml"):
        fields = yaml.safe_load(block)
        if "model" in fields:
            file = tmp_path / "run.yaml"
            file.write_text(block)
            RunFile.load(file)
        elif "task" in fields:
            file = tmp_path / "suite.yaml"
            file.write_text(block)
            Suite.load(file)
        else:
            zoo.build(fields)


@pytest.mark.slow
def test_generated_pages_hold_every_row_and_every_check() -> None:
    pages = {page.name: docs_hooks.on_page_markdown(page.read_text(encoding="utf-8")) for page in PAGES}
    assert not [name for name, text in pages.items() if "<!--" in text]
    assert all(f"## {name}\n" in pages["zoo.md"] and f"(#{name})" in pages["zoo.md"] for name in zoo.ZOO)
    assert all(f"`{check.name}`" in pages["conformance.md"] for check in CHECKS)
    assert all(
        f"| `{signal}` | [{', '.join(spec.shape)}] | " in pages["scoring.md"] for signal, spec in SIGNALS.items()
    )


def test_every_command_and_option_is_described() -> None:
    text = docs_hooks.on_page_markdown((ROOT / "docs" / "command-line.md").read_text(encoding="utf-8"))
    assert "<!--" not in text
    commands = [typer.main.get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        assert f"## prefopt {command.name}\n" in text or f" {command.name}\n" in text
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert f"`{parameter.opts[0]}`" in text
                assert parameter.help
                assert f"| {parameter.help.replace('|', chr(92) + '|')} |" in text
    assert len(commands) > 10
    assert all(f"| {code} | {meaning} |" in text for code, meaning in EXIT_CODES.items())


def test_journeys_name_files_that_are_there_and_not_too_many() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    journeys = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(journeys) == 4
    for journey in journeys:
        steps = re.findall(r"^\d+\. `([^`]+)`", journey, flags=re.MULTILINE)
        assert 5 <= len(steps) <= 12
        assert [step for step in steps if not any((base / step).is_file() for base in (ROOT, ROOT / "prefopt"))] == []
