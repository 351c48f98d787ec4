"""Formulas as docstrings write them, in text, typeset as MathML that needs no script and breaks its lines on a phone.

A formula is cut before its operators into several `<math>`, between which a browser may break the line. The element
around them has the text as its label, which is what a screen reader says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

_SIGNS = dict(zip("alpha beta gamma delta lam pi tau sigmoid sum".split(), "αβγδλπτσ∑", strict=True))
_FUNCTIONS = set(
    "log exp max min mean sorted stopgrad relu gate scale link shaping logistic rescale KL LN units".split()
)
_NAMES = {*_SIGNS, *_FUNCTIONS, "loss", "penalty", "regularisers", "ref", "L1"}
_OPERATORS = {"-": "−", "<=": "≤", ">=": "≥", "||": "‖", "..": "…"}
_BREAKS = {"=", "+", "-", "<"}
_TOKEN = re.compile(
    r"`[^`]*`|[A-Za-z]\w+(?:-[A-Za-z]\w+)+|[a-z]-th\b|_\w+|[A-Za-z][\w']*(?:_\w+(?:,\w\b)*)?(?:,\w\b)?|\d+(?:\.\d+)?|\|\||\.\.|[<>]=?|\S"
)
_SUBSCRIPT = re.compile(r"([A-Za-z]+'?)_(\w+(?:,\w)*)$")
_OPEN, _CLOSE = "([", ")]"
_THIN = '<mspace width="0.17em"/>'


@dataclass
class Node:
    """A piece of a formula: `kind` is symbol, number, function, operator, separator, text or group."""

    kind: str
    mathml: str
    text: str = ""
    inner: list[Node] = field(default_factory=list)
    glued: bool = False
    """No space stands before it in the text."""


def fence(source: str, *_: Any, **__: Any) -> str:
    """A block of formulas, one a line; after two spaces or more comes what the line is, in words."""
    lines = []
    for line in source.strip().splitlines():
        equation, *notes = re.split(r" {3,}", re.sub(r"\s+=", " =", line.strip()))
        note = f'<span class="note">{escape(" ".join(notes))}</span>' if notes else ""
        lines.append(f'<div class="line">{inline(equation)}{note}</div>')
    return f'<div class="formula">{"".join(lines)}</div>'


def inline(text: str) -> str:
    """One formula, with whatever words stand in it, as HTML."""
    chunks: list[str] = []
    for words, nodes in _runs(_parse(text)):
        chunks += [escape(words)] if words else [f"<math>{part}</math>" for part in _parts(nodes)]
    shown = " ".join(chunks).replace("|", "&#124;")
    shown = re.sub(r"</math> ([,.;:])", r"</math>\1", shown)
    return f'<span role="math" aria-label="{escape(text, quote=True).replace("|", "&#124;")}">{shown}</span>'


def _parse(text: str) -> list[Node]:
    tokens = list(_TOKEN.finditer(text))
    glued = [match.start() > 0 and not text[match.start() - 1].isspace() for match in tokens]
    followers = [match[0] for match in tokens[1:]] + [" "]
    nodes = [_node(match[0], *around) for match, *around in zip(tokens, glued, followers, strict=True)]
    return _folded(_grouped(iter(nodes))[0])


def _node(token: str, glued: bool, follower: str) -> Node:
    base = token.partition("_")[0]
    plain = base.rstrip("'")
    known = "-" not in token and (plain in _NAMES or len(plain) == 1)
    if token[0].isalpha() and known and not (token == "a" and _is_word(follower)):
        kind = "function" if plain in _FUNCTIONS or plain in ("sigmoid", "sum") else "symbol"
        upright = len(plain) > 1 and plain not in _SIGNS
        mathml = _identifier(_SIGNS.get(plain, plain) + "′" * base.count("'"), upright=upright, large=plain == "sum")
        if match := _SUBSCRIPT.match(token):
            parts = (_identifier(part, upright=len(part) > 1) for part in match[2].split(","))
            mathml = f"<msub>{mathml}<mrow>{'<mo>,</mo>'.join(parts)}</mrow></msub>"
        return Node(kind, mathml, token, glued=glued)
    if token[0].isdigit():
        return Node("number", f"<mn>{token}</mn>", token, glued=glued)
    if token[0] == "_":
        return Node("subscript", _identifier(token[1:], upright=len(token) > 2), token, glued=True)
    if token[0].isalpha() or token[0] in "`'’":
        return Node("text", "", token, glued=glued)
    kind = "separator" if token in ",;:." else "operator"
    return Node(kind, f"<mo>{escape(_OPERATORS.get(token, token))}</mo>", token, glued=glued)


def _is_word(token: str) -> bool:
    return token[0].isalpha() and len(token) > 2 and token not in _NAMES and "_" not in token


def _identifier(name: str, *, upright: bool, large: bool = False) -> str:
    if large:
        return f'<mo largeop="false" lspace="0" rspace="0">{name}</mo>'
    if name.isdigit():
        return f"<mn>{name}</mn>"
    variant = ' mathvariant="normal"' if upright else ""
    return f"<mi{variant}>{escape(name)}</mi>"


def _grouped(nodes: Iterator[Node]) -> tuple[list[Node], Node | None]:
    """The nodes up to the bracket that closes them, with what stands in brackets as groups; and that bracket."""
    row: list[Node] = []
    for node in nodes:
        if node.text in _CLOSE and node.text:
            return row, node
        if node.text in _OPEN and node.text:
            inner, close = _grouped(nodes)
            ends = (node.text, close.text if close else "")
            row.append(Node("group", "", "".join(ends), _folded(inner), node.glued))
        else:
            row.append(node)
    return row, None


def _folded(row: list[Node]) -> list[Node]:
    """The row with powers and with those fractions whose two parts are single symbols, numbers or brackets."""
    result: list[Node] = []
    rest = iter(row)
    for node in rest:
        before = result[-1] if result else None
        if node.text == "^" and before:
            power = next(rest)
            parts = _row([before]) + _row(power.inner or [power])
            result[-1] = Node("symbol", f"<msup>{parts}</msup>", glued=before.glued)
        elif node.kind == "subscript" and before:
            result[-1] = Node("symbol", f"<msub>{_row([before])}{node.mathml}</msub>", glued=before.glued)
        elif node.text == "/" and before and _stands_alone(result):
            below = next(rest)
            if below.kind in ("symbol", "number", "group"):
                parts = "".join(_row(part.inner or [part]) for part in (before, below))
                result[-1] = Node("symbol", f'<mfrac displaystyle="true">{parts}</mfrac>', glued=before.glued)
            else:
                result += [node, below]
        else:
            result.append(node)
    return result


def _stands_alone(row: list[Node]) -> bool:
    """Whether the last of the row may be a numerator: nothing before it belongs to it."""
    alone = row[-1].kind in ("symbol", "number", "group")
    return alone and (len(row) == 1 or row[-2].kind in ("operator", "separator", "text"))


def _runs(row: list[Node]) -> Iterator[tuple[str, list[Node]]]:
    """What is words and what is mathematics, in turn; a sign after a word stands with the words."""
    run: list[Node] = []
    words = ""
    for node in row:
        if node.kind == "text" or (words and node.kind == "separator"):
            if run:
                yield "", run
            words += ("" if node.glued or not words else " ") + node.text.strip("`")
            run = []
        else:
            if words:
                yield words, []
            words = ""
            run.append(node)
    if words:
        yield words, []
    if run:
        yield "", run


def _parts(row: list[Node]) -> Iterator[str]:
    """MathML of the row, cut before its operators, those in brackets too."""
    part = ""
    for mathml, breaks in _pieces(row):
        if breaks and part:
            yield part
            part = ""
        part += mathml
    if part:
        yield part


def _row(row: list[Node]) -> str:
    return f"<mrow>{''.join(mathml for mathml, _ in _pieces(row))}</mrow>"


def _pieces(row: list[Node]) -> Iterator[tuple[str, bool]]:
    """MathML of each piece, and whether a line may break before it."""
    before: Node | None = None
    for node in row:
        binary = before is not None and before.kind not in ("operator", "separator")
        space = _THIN if binary and node.kind != "operator" and node.kind != "separator" and not node.glued else ""
        if node.kind == "group":
            inner = list(_pieces(node.inner))
            whole = any("<mfrac" in mathml for mathml, _ in inner) and not any(breaks for _, breaks in inner)
            stretchy = "true" if whole else "false"
            opening, closing = (f'<mo stretchy="{stretchy}">{escape(sign)}</mo>' for sign in node.text.ljust(2)[:2])
            if whole:
                yield f"{space}<mrow>{opening}{''.join(mathml for mathml, _ in inner)}{closing}</mrow>", False
                before = node
                continue
            yield space + opening + (inner[0][0] if inner else ""), False
            yield from inner[1:]
            yield closing, False
        elif node.kind == "text":
            yield f"<mtext>{escape(node.text.strip('`'))} </mtext>", False
        elif node.kind == "operator":
            form = "infix" if binary else "prefix"
            yield node.mathml.replace("<mo>", f'<mo form="{form}">'), binary and node.text in _BREAKS
        else:
            yield space + node.mathml, before is not None and before.kind == "separator"
        before = node
