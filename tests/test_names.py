"""Names are nouns of the field: no binding is called by a word that would fit anything, or by a name given up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    file for folder in ("prefopt", "plugins", "benchmarks", "tests") for file in sorted((ROOT / folder).rglob("*.py"))
]

VAGUE = set("found each of place known own said".split())
GIVEN_UP = set(
    "settled asked_statistics Said Left weigh peaks stream streamed unstream prove bring_back ask_reference charged "
    "brought_by recorded refuse_rates_of_nothing refuse_what_nobody_reads Written Asked Agenda".split()
)


def bindings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every variable, argument, function and class."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.alias(asname=str(name)):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_say_what_they_hold(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert [f"{file}:{line}: {name}" for line, name in bindings(tree) if name in VAGUE | GIVEN_UP] == []


def test_every_binding_is_seen() -> None:
    source = """
import a as alias
def function(argument, *more, **named):
    variable = [loop for loop in more]
    if walrus := variable:
        pass
    try:
        pass
    except E as error:
        pass
    match variable:
        case [first, *rest]:
            pass
class Class:
    field: int = 0
"""
    names = {name for _, name in bindings(ast.parse(source))}
    assert names == set("alias function argument more named variable loop walrus error first rest Class field".split())
