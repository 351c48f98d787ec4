"""The pages of the interface: every public symbol with its signature, its docstring and where its source is.

What is public, the packages of prefopt list in `__all__`; components, which run files name, are public besides. A
symbol without a docstring stops the build.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import prefopt
from docs_site import formulas
from docs_site.signatures import signature
from prefopt.component import Named
from prefopt.registry import installed

ROOT = Path(prefopt.__file__).parents[1]
TITLES = {
    "prefopt": "prefopt",
    "zoo": "prefopt.zoo",
    "components": "Components",
    "data": "prefopt.data",
    "scoring": "prefopt.scoring",
    "training": "prefopt.training",
    "tasks": "prefopt.tasks",
    "testing": "prefopt.testing",
    "pages": "Comparisons, inspection and reports",
}
"""The pages, by the last part of their address."""
_PAGES = dict.fromkeys(("weightings", "divergences", "losses"), "components")
_PAGES |= {"hookspecs": "prefopt", "comparison": "pages", "inspection": "pages", "report": "pages"}
"""The room of the package -> the page, where they differ."""
_ELSEWHERE = {"prefopt.cli", "prefopt.component"}
"""Packages whose pages are others: the command line has its own, and what is public of the kinds is in `prefopt`."""
_ALIGNED = re.compile(r"^\s{2,}|\S {2,}\S", flags=re.MULTILINE)


class UndocumentedError(Exception):
    """A public symbol has no docstring, or is on no page."""


@dataclass(frozen=True)
class Symbol:
    """A public name: the package that lists it, its value and its source."""

    package: str
    name: str
    value: Any
    file: Path
    node: ast.AST
    docstring: str

    @property
    def anchor(self) -> str:
        return f"{self.package}.{self.name}"


@cache
def symbols() -> dict[str, list[Symbol]]:
    """Page -> its symbols, each on the first page that has it. Raises UndocumentedError."""
    pages: dict[str, list[Symbol]] = {page: [] for page in TITLES}
    seen: set[tuple[Path, str]] = set()
    for package, name, value in _public():
        symbol = _symbol(package, name, value)
        if (symbol.file, symbol.name) in seen:
            continue
        seen.add((symbol.file, symbol.name))
        room = [*package.split("."), "prefopt"][1]
        page = "components" if value in _built_in() else _PAGES.get(room, room)
        if page not in pages:
            raise UndocumentedError(f"{symbol.anchor} is on no page: name one for {package} in {__file__}")
        pages[page].append(symbol)
    return pages


def packages() -> list[str]:
    """The packages that list public names."""
    names = [name for _, name, is_package in pkgutil.walk_packages(prefopt.__path__, "prefopt.") if is_package]
    return [name for name in ("prefopt", *names) if name not in _ELSEWHERE and hasattr(import_module(name), "__all__")]


def _public() -> Iterator[tuple[str, str, Any]]:
    """Package, name and value of what is public, without submodules."""
    for package in packages():
        module = import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, ModuleType):
                yield package, name, value
    hooks = import_module("prefopt.hookspecs")
    yield from (
        ("prefopt.hookspecs", name, getattr(hooks, name)) for name in hooks.__all__ if name.startswith("prefopt_")
    )
    for component in _built_in():
        yield component.__module__, component.__name__, component


@cache
def _built_in() -> tuple[type[Named], ...]:
    """Our components that fill a slot by their name."""
    ours = (cls for cls, owner in installed() if owner.distribution == "prefopt")
    return tuple(sorted(ours, key=lambda cls: cls.__name__))


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _symbol(package: str, name: str, value: Any) -> Symbol:
    definition = (ast.ClassDef, ast.FunctionDef)
    if isinstance(value, type) or inspect.isfunction(value):
        modules = [sys.modules[value.__module__]]
        name = value.__name__
    else:
        modules = [module for key, module in sorted(sys.modules.items()) if key.startswith("prefopt.")]
        modules = [module for module in modules if vars(module).get(name) is value]
    for module in modules:
        file = Path(module.__file__ or "")
        body = _tree(file).body
        for node, follower in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, definition) and node.name == name:
                return _documented(Symbol(package, name, value, file, node, ast.get_docstring(node) or ""))
            if name in _assigned(node):
                text = follower.value.value if _is_text(follower) else (inspect.ismethod(value) and value.__doc__) or ""
                return _documented(Symbol(package, name, value, file, node, inspect.cleandoc(text)))
    raise UndocumentedError(f"{package}.{name}: no definition in {', '.join(module.__name__ for module in modules)}")


def _documented(symbol: Symbol) -> Symbol:
    if not symbol.docstring:
        where = f"{symbol.file.relative_to(ROOT)}:{symbol.node.lineno}"
        raise UndocumentedError(f"{where}: {symbol.anchor} is public and has no docstring; say what it is")
    return symbol


def _assigned(node: ast.AST) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _is_text(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def page(name: str, repository: str = "") -> str:
    """A page as Markdown; `repository` is the address of the source, if it has one."""
    lines = [f"# {TITLES[name]}", ""]
    for package, group in _by_package(symbols()[name]).items():
        module = inspect.getdoc(sys.modules[package]) or ""
        lines += [f"## {package}", "", *prose(module.partition("\n\n")[0]), ""]
        for symbol in group:
            lines += [*_section(symbol, repository), ""]
    return "\n".join(lines)


def index() -> str:
    """The first page: every symbol, with a link."""
    lines = [
        "# Interface",
        "",
        "What prefopt exports, page by page; what is not here is private and may change at any time.",
        "",
    ]
    for name, title in TITLES.items():
        links = ", ".join(f"[`{symbol.name}`]({name}.md#{symbol.anchor})" for symbol in symbols()[name])
        lines += [f"**[{title}]({name}.md)**: {links}", ""]
    return "\n".join(lines)


def _by_package(group: list[Symbol]) -> dict[str, list[Symbol]]:
    packages: dict[str, list[Symbol]] = {}
    for symbol in group:
        packages.setdefault(symbol.package, []).append(symbol)
    return packages


def _section(symbol: Symbol, repository: str) -> Iterator[str]:
    path, line = symbol.file.relative_to(ROOT).as_posix(), symbol.node.lineno
    source = f"`{path}`, line {line}"
    yield f"### {symbol.name} {{ #{symbol.anchor} }}"
    yield ""
    yield f"```python\n{signature(symbol.node)}\n```"
    yield ""
    yield from prose(symbol.docstring)
    for method in _methods(symbol.node):
        yield ""
        yield f"```python\n{signature(method)}\n```"
        yield ""
        yield from prose(ast.get_docstring(method) or "")
    yield ""
    yield f"Source: {f'[{source}]({repository}/blob/main/{path}#L{line})' if repository else source}"


def _methods(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """The public methods of a class that have something to say."""
    for part in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and ast.get_docstring(part):
            yield part


def prose(docstring: str) -> Iterator[str]:
    """A docstring as Markdown: examples are code, what is aligned stays so, an equation that begins it is typeset."""
    for number, paragraph in enumerate(docstring.split("\n\n")):
        if paragraph.lstrip().startswith(">>>"):
            yield f"```pycon\n{textwrap.dedent(paragraph)}\n```"
        elif number == 0 and re.match(r"[\w()]+ = ", paragraph):
            yield formulas.inline(" ".join(paragraph.split()))
        elif _ALIGNED.search(paragraph):
            yield f"```text\n{paragraph}\n```"
        else:
            yield _escaped(paragraph)
        yield ""


def _escaped(paragraph: str) -> str:
    """Signs of Markdown outside of code stand for themselves."""
    parts = re.split(r"(`[^`]+`)", paragraph)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_|])", r"\\\1", part.replace("<", "&lt;")) for part in parts
    )
