"""Hooks that MkDocs calls while it builds: cards, checks, the interface, figures and the map of imports come from the
code and from numbers that are kept, so that no page can be stale.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs_site import (
    citation,
    commands,
    formulas,
    heat_map,
    import_map,
    interface,
    messages,
    roofline,
    trl_tables,
    zoo_index,
)
from prefopt import testing
from prefopt.hookspecs import KINDS
from prefopt.registry import available
from prefopt.signals import SIGNALS
from prefopt.tokens import TokenBatch
from prefopt.training import arguments

ROOT = Path(__file__).parent
_FOR_TESTS = re.compile(r"^<!-- (?:not run|exit code): .* -->\n\n", re.MULTILINE)
"""Why a block is not run, or with which code its commands exit."""
_WORDS = 48
"""The column of TokenBatch's docstring at which a field is put in words."""


def on_config(config: Any) -> Any:
    """Formulas are blocks of a language of their own."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "formula", "class": "formula", "format": formulas.fence}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Pages that are made of the code and of files beside the documentation."""
    from mkdocs.structure.files import File

    for name, text in pages(config.repo_url or "").items():
        files.append(File.generated(config, name, content=text))
    return files


def pages(repository: str = "") -> dict[str, str]:
    """The pages that are generated whole, by address."""
    return {
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "citation.md": citation.page(ROOT / "CITATION.cff"),
        "messages.md": messages.page(),
        "api/index.md": interface.index(),
        **{f"api/{name}.md": interface.page(name, repository) for name in interface.TITLES},
    }


def on_page_markdown(text: str, **_: Any) -> str:
    """Replace the markers of a page by what the code says, and leave out what the tests read."""
    text = _FOR_TESTS.sub("", text)
    for marker, made in MARKERS.items():
        if marker in text:
            text = text.replace(marker, made())
    return text


def on_page_content(html: str, **_: Any) -> str:
    """A column without a name has no header, which a screen reader would read out as an empty one."""
    return html.replace("<th></th>", "<td></td>")


def signals() -> str:
    """The table of all signals, in the words of TokenBatch."""
    words: dict[str, list[str]] = {}
    for line in (inspect.getdoc(TokenBatch) or "").split("\n\n")[1].splitlines():
        names = line[:_WORDS].partition("[")[0].strip()
        words.setdefault(names or list(words)[-1], []).append(line[_WORDS:].strip())
    fields = {name: " ".join(text) for names, text in words.items() for name in names.split(", ")}
    lines = ["| signal | shape | | takes a reference | in the cache |", "|---|---|---|---|---|"]
    for signal, spec in SIGNALS.items():
        answers = " | ".join("yes" if answer else "no" for answer in (spec.of_reference, spec.cached))
        lines.append(f"| `{signal}` | [{', '.join(spec.shape)}] | {fields[signal]} | {answers} |")
    return "\n".join(lines)


def _code(file: Path) -> Callable[[], str]:
    return lambda: f"```python\n{file.read_text(encoding='utf-8').rstrip()}\n```"


def _names(kind: type) -> Callable[[], str]:
    return lambda: ", ".join(f"`{name}`" for name in available(kind))


MARKERS: dict[str, Callable[[], str]] = {
    "<!-- cards -->": zoo_index.cards,
    "<!-- zoo index -->": zoo_index.index,
    "<!-- checks -->": testing.markdown,
    "<!-- signals -->": signals,
    "<!-- training arguments -->": arguments.markdown,
    "<!-- commands -->": commands.sections,
    "<!-- exit codes -->": commands.exit_codes,
    "<!-- settings of TRL -->": trl_tables.settings,
    "<!-- losses of TRL -->": trl_tables.losses,
    "<!-- roofline: cards -->": roofline.cards,
    "<!-- roofline: models -->": roofline.comparison,
    "<!-- roofline: passes -->": roofline.each_pass,
    "<!-- map of imports -->": lambda: import_map.picture(import_map.rooms()),
    "<!-- heat map -->": lambda: heat_map.html(heat_map.stored()),
    **{f"<!-- examples/{file.name} -->": _code(file) for file in sorted((ROOT / "docs" / "examples").glob("*.py"))},
    **{f"<!-- names of {kind.kind} -->": _names(kind) for kind in KINDS},
}
