"""prefopt new-plugin"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prefopt.cli import completion
from prefopt.cli.console import component_kinds, console, exit_on, reject_unknown_kind
from prefopt.launch import reject_launch
from prefopt.whole_files import naming_full_disk, publish_folder, remove, unfinished_name

_TEMPLATES = Path(__file__).parent / "plugin"
_SLOTS = {
    "token-weighting": "weighting: {}",
    "divergence": "divergence: {{measure: {}}}",
    "reward-shaping": "shaping: {}",
    "unit-grouping": "units: {}",
    "preference-loss": "loss: {}",
    "regularizer": "regularizers: [{}]",
}


def new_plugin(
    distribution: Annotated[str, typer.Argument(metavar="NAME", help="The package's name, such as prefopt-decay.")],
    kind: Annotated[
        str,
        typer.Option(
            help="The kind of its component, such as token-weighting or preference-loss.",
            autocompletion=completion.component_kinds,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder in which to make the package's folder.")] = Path(),
    learned: Annotated[
        bool, typer.Option("--learned", help="A token weighting with parameters, which reads the reference's states.")
    ] = False,
) -> None:
    """Write a package with one component that installs, is found by name, and passes the conformance suite."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from prefopt.registry import PluginError

    with exit_on(ValueError, PluginError, OSError):
        reject_launch()
        variables = _template_variables(distribution, kind, learned)
        folder = out / distribution
        if folder.exists():
            raise ValueError(f"{folder} exists already; choose another name, or another folder with --out")
        environment = Environment(
            loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
        )
        files = {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            "CHANGELOG.md": "CHANGELOG.md",
            f"{variables['module']}.py": f"{'learned-' if learned else ''}{kind}.py",
            f"tests/test_{variables['module']}.py": "test_conformance.py",
        }
        texts = {
            name: environment.get_template(f"{template}.jinja").render(variables) for name, template in files.items()
        }
        _write_whole(texts, folder)
    console.print(escape(f"Wrote {folder}: {', '.join(files)}."), soft_wrap=True)
    console.print(escape(f"Next: pip install --editable '{folder}[test]' && python -m pytest {folder}"), soft_wrap=True)


def _write_whole(texts: Mapping[str, str], folder: Path) -> None:
    """Write files into a new folder, all of them or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = unfinished_name(folder)
    try:
        with naming_full_disk(folder):
            for name, text in texts.items():
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                (beside / name).write_text(text, encoding="utf-8")
            publish_folder(beside, folder)
    finally:
        remove(beside)


def _template_variables(distribution: str, kind: str, learned: bool) -> dict[str, str | bool]:
    """The variables of the templates."""
    from prefopt.registry import available

    kinds = component_kinds()
    reject_unknown_kind(kind, kinds)
    if learned and not (_TEMPLATES / f"learned-{kind}.py.jinja").is_file():
        raise ValueError(f"--learned is for kinds with parameters to learn, and {kind} has none; leave it out")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", distribution):
        raise ValueError(
            f"{distribution!r} is no name for a package; use lower case and hyphens, such as prefopt-decay"
        )
    name = distribution.removeprefix("prefopt-").replace("-", "_")
    if name in available(kinds[kind]):
        raise ValueError(f"a {kinds[kind].kind} named {name!r} is installed already; choose another name")
    camel = "".join(part.capitalize() for part in name.split("_"))
    field = "level" if kind == "token-weighting" else "scale"
    return {
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "kind": kinds[kind].kind,
        "word": kind,
        "class": camel + kind.split("-")[-1].capitalize(),
        "mask": f"{camel}Mask",
        "learned": learned,
        "field": "start" if learned else field,
        "slot": _SLOTS[kind].format(name),
    }
