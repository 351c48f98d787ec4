"""Nothing in the library branches on the name or the class of a component or an objective."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import prefopt
from prefopt import zoo
from prefopt.registry import installed

PACKAGE = Path(prefopt.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def concrete() -> dict[str, str]:
    """The class names of our components and of what they build, with the component's name."""
    ours = [cls for cls, bringer in installed() if bringer.distribution == "prefopt"]
    return {cls.__name__: cls.model_fields["name"].default for cls in ours} | {"SparseMask": "", "StateBaseline": ""}


def branches(tree: ast.AST) -> list[str]:
    """Where a decision hangs on the name or the class of a component or an objective."""
    names = {name for name in concrete().values() if name} | set(zoo.ZOO)
    comparisons = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(is_name, sides)) and strings(sides) & names:
                comparisons.append(ast.unparse(node))
            if concrete().keys() & identifiers(sides) and any("type(" in ast.unparse(side) for side in sides):
                comparisons.append(ast.unparse(node))
        elif isinstance(node, ast.Match) and is_name(node.subject) and strings(node.cases) & names:
            comparisons.append(f"match {ast.unparse(node.subject)}")
        elif isinstance(node, ast.MatchClass) and concrete().keys() & identifiers([node.cls]):
            comparisons.append(f"case {ast.unparse(node)}")
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("isinstance", "issubclass")
            and concrete().keys() & identifiers(node.args[1:])
        ):
            comparisons.append(ast.unparse(node))
    return comparisons


def is_name(node: ast.AST) -> bool:
    """Whether an expression looks like something's name: x.name, name, objective_name, x["name"], x.get("name")."""
    match node:
        case ast.Attribute(attr=text) | ast.Name(id=text) | ast.Subscript(slice=ast.Constant(value=text)):
            return str(text).endswith("name")
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value="name"), *_]):
            return True
    return False


def strings(nodes: list[ast.AST]) -> set[str]:
    every = (part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Constant))
    return {part.value for part in every if isinstance(part.value, str)}


def identifiers(nodes: list[ast.AST]) -> set[str]:
    every = [part for node in nodes for part in ast.walk(node)]
    return {n.id for n in every if isinstance(n, ast.Name)} | {n.attr for n in every if isinstance(n, ast.Attribute)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_branches_on_a_name(file: Path) -> None:
    """Not even the module that defines a component: a component varies by its own fields."""
    assert branches(ast.parse(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "if config.weighting.name == 'sparse': pass",
        "x = 'sparse' != name",
        "if fields['name'] in ('dpo', 'ipo'): pass",
        "if fields.get('name') in {'dpo'}: pass",
        "match component.name:\n    case 'hinge' | 'squared': pass",
        "match component:\n    case HingeLoss(): pass",
        "isinstance(x, (int, prefopt.losses.HingeLoss))",
        "issubclass(x, SparseWeighting)",
        "type(x) is SparseWeighting",
    ],
)
def test_that_check_bites(source: str) -> None:
    assert branches(ast.parse(source))
    assert not branches(ast.parse("if path.name == 'objective.yaml' and position == 'token': isinstance(x, Component)"))
