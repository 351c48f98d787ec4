"""Every error and warning of the package, in its own words, with signs where a run puts in names and numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html import escape
from itertools import product
from pathlib import Path

from docs_site.import_map import PACKAGE

HOLE = "…"
_SHORTEST = 25
"""Characters of a message; shorter ones are parts of others."""


def page() -> str:
    """A list for each room of the package that says something."""
    lines = [
        "# Messages",
        "",
        f"Every error and warning, read off the code; {HOLE} is what depends on your run. Search for yours; the",
        "file is the one that says it. [Troubleshooting](troubleshooting.md) has what mends the common ones, and",
        "[Data](data.md#errors) how rows that cannot be used are reported.",
        "",
    ]
    for room, texts in sorted(messages().items()):
        lines += [f"## {room}", ""]
        lines += [
            f"- <code>{escape(text).replace('|', '&#124;')}</code> (`{source}`)" for text, source in sorted(texts)
        ]
        lines.append("")
    return "\n".join(lines)


def messages() -> dict[str, set[tuple[str, str]]]:
    """Room -> (message, file)."""
    rooms: dict[str, set[tuple[str, str]]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        texts = {text for text in spoken(ast.parse(file.read_text(encoding="utf-8"))) if len(text) >= _SHORTEST}
        if texts:
            rooms.setdefault(Path(name).parts[0].removesuffix(".py"), set()).update((text, name) for text in texts)
    return rooms


def spoken(tree: ast.AST) -> Iterator[str]:
    """The texts that are raised, logged or warned of. What is wrong with a row and its remedy are one message."""
    for node in ast.walk(tree):
        match node:
            case ast.Raise(exc=ast.Call(args=arguments)):
                yield from _joined(arguments)
            case ast.Call(func=ast.Name(id="BadRow"), args=arguments):
                yield from _joined(arguments)
            case ast.Call(func=ast.Attribute(attr="warning" | "warn" | "error"), args=arguments):
                yield from _texts(arguments)
            case ast.Assign(targets=[ast.Attribute(attr="args")], value=value):
                yield from _texts([value])


def _joined(arguments: list[ast.expr]) -> Iterator[str]:
    """The texts of several arguments, such as a problem and its remedy, as one; names of fields are left out."""
    texts = [[text for text in _texts([argument]) if " " in text] for argument in arguments]
    if any(texts):
        yield from map("; ".join, product(*filter(None, texts)))


def _texts(nodes: list[ast.expr]) -> Iterator[str]:
    """The texts of arguments, those that are chosen between too."""
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)):
                yield _plain(re.sub(r"%[-+#.\d]*[a-z]", HOLE, text))
            case ast.JoinedStr(values=parts):
                yield _plain("".join(part.value if isinstance(part, ast.Constant) else HOLE for part in parts))
            case ast.BinOp(left=left, right=right):
                yield from _texts([left, right])
            case ast.IfExp(body=body, orelse=orelse):
                yield from _texts([body, orelse])
            case ast.Tuple(elts=elements):
                yield from _texts(elements)


def _plain(text: str) -> str:
    return " ".join(text.split())
