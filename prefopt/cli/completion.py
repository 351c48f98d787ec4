"""Names that a shell completes: read off the sources of what is installed, since to import them takes seconds."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).parents[1]

_SOURCES = "component weightings divergences shapings.py units.py losses regularizers.py tasks".split()
"""Where the built-in components, tasks and scorers are, and the classes that they derive from."""

_KINDS: Mapping[str, str] = {
    "TokenWeighting": "token-weighting",
    "Divergence": "divergence",
    "RewardShaping": "reward-shaping",
    "Units": "unit-grouping",
    "PreferenceLoss": "preference-loss",
    "Regularizer": "regularizer",
    "Task": "task",
    "Scorer": "scorer",
}
"""The abstract class of a kind -> the kind as the command line writes it."""

_FURTHER = ("task", "scorer")
"""Kinds that are no part of an objective."""

Completions = list[tuple[str, str]]
"""Names with what they are."""


class _Class(NamedTuple):
    name: str | None
    bases: tuple[str, ...]
    about: str


def objectives(incomplete: str) -> Completions:
    """The rows of the zoo."""
    rows = [
        (node.name, _summary(node))
        for file in sorted((_PACKAGE / "zoo").glob("[a-z]*.py"))
        for node in _tree(file).body
        if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Name)
        if node.returns.id == "ObjectiveConfig" and not node.name.startswith("_")
    ]
    return _beginning(rows, incomplete)


def components(incomplete: str) -> Completions:
    """The components."""
    names = [(name, about) for kind, name, about in _installed() if kind not in _FURTHER]
    return _beginning(names, incomplete)


def checks(incomplete: str) -> Completions:
    """The checks of the conformance suite."""
    names = [
        (node.name, _summary(node))
        for file in sorted((_PACKAGE / "testing" / "checks").glob("[a-z]*.py"))
        for node in _tree(file).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    ]
    return _beginning(names, incomplete)


def tasks(incomplete: str) -> Completions:
    """The tasks of comparisons."""
    return _beginning([(name, about) for kind, name, about in _installed() if kind == "task"], incomplete)


def component_kinds(incomplete: str) -> Completions:
    """The kinds of component."""
    return [kind for kind in kinds(incomplete) if kind[0] not in _FURTHER]


def kinds(incomplete: str) -> Completions:
    """The kinds of component, tasks and scorers."""
    return _beginning([(kind, "") for kind in _KINDS.values()], incomplete)


def plugins(incomplete: str) -> Completions:
    """The distributions that bring plugins."""
    names = {point.dist.name for point in entry_points(group="prefopt") if point.dist is not None}
    return _beginning([(name, "") for name in sorted(names)], incomplete)


def run_overrides(incomplete: str) -> Completions:
    """Of a run file."""
    return _override("objective", objectives, incomplete)


def suite_overrides(incomplete: str) -> Completions:
    """Of a suite."""
    return _override("task", tasks, incomplete)


def _override(field: str, names: Callable[[str], Completions], incomplete: str) -> Completions:
    """`field=NAME` for the names, once the field is there."""
    start = f"{field}="
    if not incomplete.startswith(start):
        return _beginning([(start, "")], incomplete)
    return [(f"{start}{name}", about) for name, about in names(incomplete.removeprefix(start))]


def _beginning(entries: Iterable[tuple[str, str]], incomplete: str) -> Completions:
    return [entry for entry in entries if entry[0].startswith(incomplete)]


def _installed() -> Iterator[tuple[str, str, str]]:
    """(kind, name, what it is) of each component, task and scorer, built in or of a plugin."""
    classes = {name: cls for file in _files() for name, cls in _classes(file)}
    for cls in classes.values():
        kind = _kind(cls, classes)
        if cls.name is not None and kind is not None:
            yield kind, cls.name, cls.about


def _kind(cls: _Class, classes: Mapping[str, _Class]) -> str | None:
    """The kind of the first base that has one."""
    for base in cls.bases:
        if base in _KINDS:
            return _KINDS[base]
        if base in classes and (kind := _kind(classes[base], classes)) is not None:
            return kind
    return None


def _files() -> Iterator[Path]:
    for source in _SOURCES:
        path = _PACKAGE / source
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]
    for point in entry_points(group="prefopt"):
        try:
            spec = find_spec(point.module.partition(".")[0])
        except (ImportError, ValueError):
            continue  # `prefopt doctor` says what is wrong with it
        folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
        if folders:
            yield from (file for folder in folders for file in sorted(folder.rglob("*.py")))
        elif spec is not None and spec.origin is not None:
            yield Path(spec.origin)


def _classes(file: Path) -> Iterator[tuple[str, _Class]]:
    """The classes of a module by name, with the name of each as a component."""
    text = file.read_text(encoding="utf-8")
    if "class " not in text:
        return
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
            yield node.name, _Class(_component_name(node), bases, _summary(node))


def _component_name(node: ast.ClassDef) -> str | None:
    """The default of the field `name`."""
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id == "name":
            default = part.value
            return default.value if isinstance(default, ast.Constant) and isinstance(default.value, str) else None
    return None


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _summary(node: ast.FunctionDef | ast.ClassDef) -> str:
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
