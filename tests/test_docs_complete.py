"""What the library has is on a page: rows, checks, symbols, options, metrics, hooks, variables and messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import typer
from pydantic import BaseModel

import docs_hooks
import prefopt
from docs_site import interface, messages
from prefopt import Objective, hookspecs, zoo
from prefopt.cli import app
from prefopt.cli.console import EXIT_CODES
from prefopt.comparison.suite import Suite
from prefopt.registry import installed
from prefopt.signals import SIGNALS
from prefopt.tasks.judges import EndpointJudge, ScorerJudge
from prefopt.tasks.registry import available_tasks
from prefopt.tasks.scorers.registry import available_scorers
from prefopt.testing import CHECKS
from prefopt.testing.cases import HIDDEN, LAYERS, case_for
from prefopt.training import RunFile, run_sections
from tests.blocks import PAGES, generated_pages

pytestmark = pytest.mark.slow

PACKAGE = Path(prefopt.__file__).parent
TREES = {
    file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")
}


@cache
def built_pages() -> dict[str, str]:
    """The pages as they are built, by name."""
    return {page.name: docs_hooks.on_page_markdown(page.read_text(encoding="utf-8")) for page in PAGES}


@cache
def text_of_pages() -> str:
    """All pages, without the changelog."""
    generated = (text for name, text in generated_pages().items() if name != "changelog.md")
    return "\n".join((*built_pages().values(), *generated))


def absent(names: set[str], text: str, *, end: str = "") -> list[str]:
    return [name for name in sorted(names) if not re.search(rf"(?<![\w/]){re.escape(name)}{end}\b", text)]


def test_generated_pages_hold_every_row_and_every_check() -> None:
    pages = built_pages()
    assert not [name for name, text in pages.items() if "<!--" in text]
    assert all(f"## {name}\n" in pages["zoo.md"] and f"(#{name})" in pages["zoo.md"] for name in zoo.ZOO)
    assert all(f"`{check.name}`" in pages["conformance.md"] for check in CHECKS)
    assert all(
        f"| `{signal}` | [{', '.join(spec.shape)}] | " in pages["scoring.md"] for signal, spec in SIGNALS.items()
    )


def test_every_command_and_option_is_described() -> None:
    text = built_pages()["command-line.md"]
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


PUBLIC = {
    (module.__name__, name)
    for module in (import_module(package) for package in interface.packages())
    for name in module.__all__
    if not isinstance(getattr(module, name), ModuleType)
}


def test_every_public_symbol_and_component_is_on_a_page() -> None:
    generated = generated_pages()
    text = "\n".join(text for name, text in generated.items() if name.startswith("api/"))
    names = {name for _, name in PUBLIC} | {
        cls.__name__ for cls, owner in installed() if owner.distribution == "prefopt"
    }
    assert [name for name in sorted(names) if f"### {name} {{ #prefopt" not in text] == []
    assert len(names) > 200
    assert "tokens.py`, line " in generated["api/prefopt.md"]
    assert "](https://host/tree/blob/main/prefopt/tokens.py#L" in interface.page("prefopt", "https://host/tree")


def constants(pattern: str, *rooms: str) -> set[str]:
    """The texts of the code that match, of these rooms or all; a hole is a `*`."""
    texts = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree) if name.startswith(rooms or "") else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.add("".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values))
    return {text for text in texts if re.fullmatch(pattern, text)}


SECTIONS: dict[str, type[BaseModel]] = {
    "RunFile": RunFile,
    **{name: cls for name, cls in vars(run_sections).items() if isinstance(cls, type) and issubclass(cls, BaseModel)},
    "Suite": Suite,
    "judge by scorer": ScorerJudge,
    "judge by endpoint": EndpointJudge,
    **available_tasks(),
    **available_scorers(),
    **{cls.__name__: cls for cls, owner in installed() if owner.distribution == "prefopt"},
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_of_a_document_is_on_a_page(section: str) -> None:
    assert absent(set(SECTIONS[section].model_fields), text_of_pages()) == []


def documented_metrics() -> set[str]:
    """The names in the table of metrics; those of w are those of v too."""
    page = next(page for page in PAGES if page.name == "metrics.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([\w/]+)`", "\n".join(line for line in page.splitlines() if line.startswith("|"))))
    return names | {f"divergence_{name}" for name in names if name.startswith("weights/")}


def test_every_metric_that_is_logged_is_on_the_page_of_metrics() -> None:
    rooms = ("metrics.py", "mask_health.py", "unit_pairs.py", "training/", "scoring/")
    whole = constants(r"[a-z_]+/[a-z_]+", *rooms) - {"runs/train", "train/global_step"}
    ends = {text.removeprefix("*") for text in constants(r"\*/[a-z_]+", *rooms)}
    documented = documented_metrics()
    assert len(whole) > 10
    assert whole - documented == set()
    assert [end for end in sorted(ends) if not any(name.endswith(end) for name in documented)] == []


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_metric_of_an_objective_is_on_the_page_of_metrics(name: str) -> None:
    config = zoo.ZOO[name]()
    columns = {column.name: column for component in config.components for column in component.columns}
    tokens = case_for(config.loss).tokens(config.divergence and config.divergence.measure)
    if not columns:  # the names do not depend on what data a component reads
        metrics = Objective(config, num_layers=LAYERS, hidden_size=HIDDEN).double()(tokens).metrics
        assert len(metrics) > 8
        assert metrics.keys() - documented_metrics() == set()


def metrics_of_tasks() -> Iterator[str]:
    """The names of metrics, as the tasks write them down."""
    for name, tree in TREES.items():
        for node in ast.walk(tree) if name.startswith("tasks/") else ():
            match node:
                case ast.Call(func=ast.Name(id="Metric"), args=[ast.Constant(value=str(metric)), *_]):
                    yield metric


def test_every_metric_of_a_task_is_on_a_page() -> None:
    names = set(metrics_of_tasks())
    assert len(names) > 20
    assert absent(names, text_of_pages(), end="(_w)?") == []  # `_w` and `_v`: of the two masks


def test_every_hook_and_environment_variable_is_on_a_page() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("prefopt_")}
    variables = constants("PREFOPT_[A-Z_]+")
    assert len(hooks) > 6
    assert len(variables) >= 3
    assert absent(hooks | variables, text_of_pages()) == []


PASSED_ON = ("error", "explain", "mistake", "lines", "fault", "row)", "pair.", "os.strerror", "item", "result.padding")
"""What stands in an exception that passes on what another says, or a list of lines."""


@pytest.mark.parametrize("file", [name for name in TREES if not name.startswith("cli/")])
def test_every_error_is_on_the_page_of_messages(file: str) -> None:
    """Or it passes on what another says."""
    silent = []
    for function in ast.walk(TREES[file]):
        if isinstance(function, ast.FunctionDef):
            variables = messages.variables(function)
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
                    words = ast.unparse(node)
                    if node.args and not any(" " in text for text in messages.texts(node.args, variables)):
                        silent += [] if any(word in words for word in PASSED_ON) else [words]
    assert silent == []


def test_messages_of_data_and_checks_are_there() -> None:
    page = generated_pages()["messages.md"].replace("&#x27;", "'")
    assert page.count("\n- ") > 400
    for text in (
        "the policy has no parameter that trains",
        "two equal responses say nothing about what is preferred",
        "found an empty response; write one, or remove the row",
        "pairs dropped: both responses are the same tokens",
        "prompts taken from what both responses begin with",
        "characters that the tokenizer has no token for",
        "no gradient reaches the policy's logits",
    ):
        assert text in page
