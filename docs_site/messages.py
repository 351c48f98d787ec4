"""Every error, warning and notice of the package, in its own words, with a sign for what a run puts in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import product
from pathlib import Path

from docs_site.import_map import PACKAGE

HOLE = "…"
Variables = Mapping[str, Sequence[str]]
_SHORTEST = 25
"""Characters of a message; shorter ones are parts of others."""


def page() -> str:
    """A list for each room of the package that says something."""
    lines = [
        "# Messages",
        "",
        f"Every error, warning and notice, read off the code; {HOLE} is what depends on your run. Search for yours;",
        "the file is the one that says it. [Troubleshooting](troubleshooting.md) has what mends the common ones, and",
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
    """The texts that are raised, logged, warned of or reported of data. What is wrong with a row and its remedy are one
    message."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    yield from _said_in(tree, {})
    for function in functions:
        yield from _said_in(function, variables(function))


def _said_in(scope: ast.AST, names: Variables) -> Iterator[str]:
    for node in ast.walk(scope):
        match node:
            case ast.Raise(exc=ast.Call(args=arguments)):
                yield from _joined(arguments, names)
            case ast.Call(func=ast.Name(id=name), args=arguments) if name == "BadRow" or name.endswith("Error"):
                yield from _joined(arguments, names)
            case ast.Call(func=ast.Name(id="require"), args=[_, fault, *_]):
                yield from texts([fault], names)
            case ast.Call(func=ast.Attribute(attr="warning" | "warn" | "error"), args=arguments):
                yield from texts(arguments, names)
            case (
                ast.Call(
                    func=ast.Attribute(value=ast.Attribute(attr="guessed" | "left_out"), attr="add"), args=arguments
                )
                | ast.Call(func=ast.Attribute(value=ast.Name(id="guessed"), attr="add"), args=arguments)
            ):
                yield from texts(arguments, names)
            case ast.Assign(targets=[ast.Attribute(attr="args")], value=value):
                yield from texts([value], names)
            case ast.FunctionDef(name="notices"):
                keys = [key for part in ast.walk(node) if isinstance(part, ast.Dict) for key in part.keys if key]
                yield from texts(keys, names)


def variables(function: ast.FunctionDef) -> Variables:
    """The texts that the variables of a function may hold."""
    held: dict[str, list[str]] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                held.setdefault(name, []).extend(texts([value], {}))
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                held.setdefault(name, []).extend(texts([value], {}))
    return held


def _joined(arguments: list[ast.expr], names: Variables) -> Iterator[str]:
    """The texts of several arguments, such as a problem and its remedy, as one; names of fields are left out."""
    parts = [[text for text in texts([argument], names) if " " in text] for argument in arguments]
    if any(parts):
        yield from map("; ".join, product(*filter(None, parts)))


def texts(nodes: Iterable[ast.expr], names: Variables) -> Iterator[str]:
    """The texts of arguments, those that are chosen between too."""
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)):
                yield _plain(re.sub(r"%[-+#.\d]*[a-z]", HOLE, text))
            case ast.JoinedStr(values=parts):
                yield _plain("".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in parts))
            case ast.Name(id=name):
                yield from names.get(name, ())
            case ast.BinOp(left=left, right=right):
                yield from texts([left, right], names)
            case ast.IfExp(body=body, orelse=orelse):
                yield from texts([body, orelse], names)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                yield from texts(elements, names)


def _plain(text: str) -> str:
    return " ".join(text.split())
