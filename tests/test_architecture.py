"""The layers of the library, kept by reading its imports; CONTRIBUTING draws them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import prefopt
from tests.forked import run_file

PACKAGE = Path(prefopt.__file__).parent
FACADE = "prefopt/__init__"

# A unit imports only units of lower layers, and never another of its own.
LAYERS: list[set[str]] = [
    {
        "columns",
        "launch",
        "origins",
        "pages",
        "plugin_imports",
        "printing",
        "signals",
        "stable",
        "tokens",
        "validation",
        "whole_files",
    },
    {"progress"},
    {"component", "data", "draws", "metrics", "schemas"},
    {"hookspecs", "mask_health"},
    {"weightings", "divergences", "shapings", "units", "unit_pairs", "losses", "regularizers", "plugins"},
    {"registry"},
    {"objective_config"},
    {"objective"},
    {"sampling", "zoo", "scoring", "testing"},
    {"training"},
    {"tasks"},
    {"comparison"},
    {"report"},
    {"inspection"},
    {"cli"},
    {FACADE, "__main__"},  # re-exports, and `python -m prefopt`; nothing inside the library imports through them
]
LAYER = {unit: height for height, units in enumerate(LAYERS) for unit in units}

# The same within the largest rooms.
LAYERS_WITHIN: dict[str, list[set[str]]] = {
    "tasks": [
        {"optional", "ranking"},
        {"preference_data"},
        {"scorers"},
        {"judges"},
        {"base"},
        {"generation", "held_out", "models"},
        {"conformance", "human_preferences"},
        {"dialogue", "lm_eval", "planted", "sentiment", "summarization"},
        {"built_ins"},
        {"registry"},
        {"annotated"},
        {"__init__"},
    ],
    "comparison": [
        {"interpolation", "paths", "processes", "progress", "run", "statistics", "suite_fields"},
        {"execute", "run_log", "suite"},
        {"call", "controls", "engines", "preflight", "run_queue", "tensorboard"},
        {"folder", "summary"},
        {"differences", "runner", "suite_schema"},
        {"distances"},
        {"frontier"},
        {"results"},
        {"verdict"},
        {"__init__"},
    ],
    "report": [
        {"format"},
        {"further", "headline", "heat_maps", "plots"},
        {"charts"},
        {"page", "pictures"},
        {"files"},
        {"terminal"},
        {"__init__"},
    ],
}

# Where each third-party library may be imported. One that is not here has to be given a place first.
ANYWHERE = set(LAYER)
OUTSIDE: dict[str, set[str]] = {
    "torch": ANYWHERE,
    "pydantic": ANYWHERE,
    "pydantic_core": ANYWHERE,
    "yaml": {"objective", "testing", "training", "tasks", "comparison", "cli"},
    "safetensors": {"objective", "scoring", "training"},
    "pluggy": {"hookspecs", "plugins", "registry"},
    "pytest": {"testing"},
    "transformers": {"data", "sampling", "scoring", "training", "tasks", "comparison", "inspection", "cli"},
    "tokenizers": {"data", "tasks"},
    "datasets": {"data", "scoring", "training", "tasks", "inspection"},
    "pyarrow": {"data", "scoring", "inspection"},
    "accelerate": {"training", "tasks", "comparison"},
    "filelock": {"training", "tasks", "comparison"},
    "tensorboard": {"training", "comparison"},
    "peft": {"scoring", "training", "tasks", "comparison"},
    "jinja2": {"data", "pages", "cli"},
    "omegaconf": {"training", "comparison", "cli"},
    "rich": {"printing", "progress", "data", "training", "tasks", "comparison", "inspection", "cli"},
    "typer": {"cli"},
    "huggingface_hub": {"training", "cli"},
    "packaging": {"cli"},
    "matplotlib": {"report"},
    "pandas": {"comparison", "report", "training"},
    "scipy": {"comparison"},
    "numpy": {"data", "training", "tasks", "comparison", "report"},
    "bert_score": {"tasks"},
    "lm_eval": {"tasks"},
    "openai": {"tasks"},
    "ray": {"comparison"},
    "submitit": {"comparison"},
    "rouge_score": {"tasks"},
    "sacrebleu": {"tasks"},
    "summac": {"tasks"},
    "sklearn": {"tasks"},
    "vaderSentiment": {"tasks"},
}

# What the library does without where it is not installed: it may be imported within functions only.
OPTIONAL = (
    "bert_score",
    "lm_eval",
    "matplotlib",
    "openai",
    "ray",
    "rouge_score",
    "sacrebleu",
    "sklearn",
    "submitit",
    "summac",
    "vaderSentiment",
)

# `import prefopt` costs nothing; `from prefopt import Objective` costs torch and pydantic, not these.
HEAVY = (
    "transformers",
    "datasets",
    "accelerate",
    "peft",
    "matplotlib",
    "sklearn",
    "openai",
    "typer",
    "rich",
    "tensorboard",
    "pytest",
)

FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))


def unit_of(file: Path) -> str:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return FACADE if part == "__init__" else part


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere in the tree, functions and type checking included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner(name: str) -> str | None:
    """The unit of the library that a dotted name leads to; None for other libraries."""
    first, *rest = name.split(".")
    if first != "prefopt":
        return None
    return rest[0] if rest and rest[0] in LAYER else FACADE


def outer(name: str) -> str | None:
    """The third-party library that a dotted name leads to; None for prefopt and the standard library."""
    if name.startswith("torch.utils.tensorboard"):
        return "tensorboard"
    first = name.partition(".")[0]
    return None if first == "prefopt" or first in sys.stdlib_module_names else first


def climbing(unit: str, names: Iterator[str]) -> list[str]:
    """Those imports that do not point down."""
    units = {name: inner(name) for name in names}
    return [name for name, other in units.items() if other not in (None, unit) and LAYER[other] >= LAYER[unit]]


def climbing_within(room: str, unit: str, names: Iterator[str]) -> list[str]:
    """Those imports from the room that do not point down in it."""
    layer = {inside: height for height, units in enumerate(LAYERS_WITHIN[room]) for inside in units}
    modules = {name: name.split(".")[2] for name in names if name.startswith(f"prefopt.{room}.")}
    others = {name: module if module in layer else "__init__" for name, module in modules.items()}
    return [name for name, other in others.items() if other != unit and layer[other] >= layer[unit]]


def misplaced(unit: str, names: Iterator[str]) -> list[str]:
    """Those imports of third-party libraries that do not belong there."""
    return [name for name in names if outer(name) and unit not in OUTSIDE.get(outer(name) or "", set())]


def test_every_file_has_a_layer() -> None:
    assert {unit_of(file) for file in FILES} <= set(LAYER)
    assert len(FILES) > 20


@each_file
def test_imports_point_down(file: Path) -> None:
    unit = unit_of(file)
    wrong = climbing(unit, imports(tree_of(file)))
    assert wrong == [], f"{unit} may not import {', '.join(wrong)}: see LAYERS, of which each imports lower ones alone"


@pytest.mark.parametrize("room", LAYERS_WITHIN)
def test_imports_point_down_within(room: str) -> None:
    folder = PACKAGE / room
    units = {file: file.relative_to(folder).parts[0].removesuffix(".py") for file in folder.rglob("*.py")}
    assert set(units.values()) == set.union(*LAYERS_WITHIN[room])
    wrong = {str(file): climbing_within(room, unit, imports(tree_of(file))) for file, unit in units.items()}
    assert {file: names for file, names in wrong.items() if names} == {}


@each_file
def test_libraries_stay_in_their_place(file: Path) -> None:
    assert misplaced(unit_of(file), imports(tree_of(file))) == []
    if unit_of(file) == "scoring" and "cache" not in file.name:
        assert not {"datasets", "pyarrow"} & {outer(name) for name in imports(tree_of(file))}


def test_these_checks_bite() -> None:
    def names(source: str) -> Iterator[str]:
        return imports(ast.parse(source))

    assert climbing("losses", names("from prefopt.shapings import SumShaping"))
    assert climbing("component", names("def f():\n    from prefopt import zoo"))
    assert climbing("objective", names("from prefopt import ObjectiveConfig"))
    assert climbing("comparison", names("import prefopt.inspection.page"))
    assert not climbing("objective", names("import prefopt.registry\nfrom prefopt.objective import Mean"))
    assert climbing_within("tasks", "judges", names("from prefopt.tasks.registry import x"))
    assert climbing_within("tasks", "planted", names("def f():\n    from prefopt.tasks.sentiment.task import x"))
    assert climbing_within("report", "page", names("from prefopt.report import write_report"))
    assert not climbing_within("tasks", "planted", names("from prefopt.tasks.planted import x\nimport prefopt.report"))
    assert misplaced("objective", names("import torch.utils.tensorboard"))
    assert misplaced("data", names("import os\nimport a_new_library"))
    assert not misplaced("data", names("import os\nfrom datasets import Dataset\nfrom prefopt.tokens import x"))


def exported(file: Path) -> list[str]:
    """`__all__`, of a package as it is computed."""
    for node in tree_of(file).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return importlib.import_module(module_of(file)).__all__
    return []


@each_file
def test_public_names_are_listed_in_order(file: Path) -> None:
    """CONSTANTS, then Classes, then functions, each in alphabetical order, as ruff sorts them."""
    names = exported(file)
    if file.name == "__init__.py" and any(inner(name) for name in imports(tree_of(file))):
        assert names, "a package that gathers names says which it exports"
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert len(set(names)) == len(names)


@each_file
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 280


def run(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.outside
def test_importing_prefopt_is_light_and_silent() -> None:
    code = "import sys; {}; print([name for name in {!r} if name in sys.modules])"
    bare = run(code.format("import prefopt", ("torch", "pydantic", *HEAVY)), "-W", "error")
    objective = run(code.format("from prefopt import Objective, zoo", HEAVY), "-W", "error")
    assert bare.strip() == objective.strip() == "[]"


def test_every_public_name_comes_from_where_type_checkers_see_it() -> None:
    block = next(node for node in tree_of(PACKAGE / "__init__.py").body if isinstance(node, ast.If))
    sources = dict(reversed(name.rsplit(".", 1)) for name in imports(block))
    assert sorted(sources) == sorted(prefopt.__all__)
    for name, module in sources.items():
        assert getattr(prefopt, name) is getattr(importlib.import_module(module), name)
        assert name in dir(prefopt)
    with pytest.raises(AttributeError, match="no attribute 'objectives'"):
        _ = prefopt.objectives


IN_SILENCE = """
import importlib, sys, types, warnings
modules, package, heavy = {modules!r}, {package!r}, {heavy!r}
for name in heavy:  # once, with whatever they have to say about one another: only our own warnings are errors
    importlib.import_module(name)
warnings.simplefilter("error")
# A bare package in place of prefopt/__init__.py, which would import what a module forgets to.
sys.modules["prefopt"] = types.ModuleType("prefopt")
sys.modules["prefopt"].__path__ = [package]
for module in modules:
    found = importlib.import_module(module)
    absent = [name for name in getattr(found, "__all__", ()) if not hasattr(found, name)]
    if absent:
        sys.exit(f"{{module}}: __all__ names {{absent}}, which it does not have")
"""


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("prefopt", *(part for part in parts if part != "__init__")))


MODULES = {module_of(file): file for file in FILES}


@pytest.mark.outside
def test_every_module_imports_in_silence(tmp_path: Path) -> None:
    used = {name for file in FILES for module in imports(tree_of(file)) if (name := outer(module))}
    used -= {name for name in OPTIONAL if importlib.util.find_spec(name) is None}
    modules = [name for name in MODULES if name != "prefopt"]
    file = tmp_path / "in_silence.py"
    file.write_text(IN_SILENCE.format(modules=modules, package=str(PACKAGE), heavy=sorted(used)))
    run_file(file, path=sys.path, cwd=tmp_path)


def at_run_time(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """Every dotted name that a module imports, within functions too; not those for type checking alone."""
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            for block in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from at_run_time(getattr(node, block, ()))


def circle(needed: Mapping[str, set[str]]) -> list[str]:
    """Modules of which each needs the next, and the last the first; none where there is no such circle."""
    try:
        tuple(TopologicalSorter(needed).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_imports() -> None:
    """Function-local imports counted: a circle that a function hides is a circle all the same."""
    needed = {
        name: {module for imported in at_run_time(tree_of(file).body) if (module := within_prefopt(imported))}
        for name, file in MODULES.items()
    }
    assert circle(needed) == []
    assert needed["prefopt.objective"] >= {"prefopt.registry", "prefopt.tokens"}


def test_the_circle_check_bites() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    local = "def f():\n    try:\n        import one\n    except E:\n        from two import x\n    else: import three"
    assert list(at_run_time(ast.parse(local).body)) == ["one", "three", "two.x"]
    assert list(at_run_time(ast.parse("if TYPE_CHECKING:\n    import one").body)) == []


def within_prefopt(name: str) -> str | None:
    """The module that an imported name is, or is taken from."""
    return name if name in MODULES else module if (module := name.rpartition(".")[0]) in MODULES else None
