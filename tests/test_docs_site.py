"""What the documentation is made of besides pages: formulas and figures."""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

import pytest

import prefopt
from docs_site import formulas, heat_map, interface, messages
from docs_site.signatures import signature
from prefopt import zoo
from prefopt.registry import installed
from prefopt.zoo.cards import equation_of

EQUATIONS = {
    **{name: equation_of(row) for name, row in zoo.ZOO.items()},
    **{
        component.__name__: equation_of(component)
        for component, owner in installed()
        if owner.distribution == "prefopt"
    },
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_equation_of_the_code_is_typeset_whole(name: str) -> None:
    html = formulas.inline(EQUATIONS[name])
    shown = "".join("".join(ET.fromstring(html).itertext()).split())
    assert ET.fromstring(html).attrib == {"role": "math", "aria-label": unescape(EQUATIONS[name])}
    assert all(sign in shown for sign in set(EQUATIONS[name]) & set("=,+<>"))
    assert shown.count("(") == shown.count(")") or "[0, 1)" in EQUATIONS[name]
    names = [element for element in ET.fromstring(html).iter() if element.tag in ("mi", "mo", "mn")]
    assert not any("_" in (element.text or "") for element in names)


def test_powers_fractions_and_subscripts() -> None:
    html = formulas.inline("loss = (sum_t r_t - 1 / (2 beta))^2, with t a position.")
    root = ET.fromstring(html)
    (fraction,) = root.iter("mfrac")
    assert ["".join(part.itertext()) for part in fraction] == ["1", "2β"]
    assert {"".join(element.itertext()) for element in root.iter("msub")} == {"∑t", "rt"}
    assert len(list(root.iter("msup"))) == 1
    assert "".join(root.itertext()).endswith("position.")


def test_the_readmes_picture_is_that_of_the_kept_numbers() -> None:
    figure = heat_map.stored()
    kept = (heat_map.FIGURES / "heat-map.svg").read_text(encoding="utf-8")
    assert kept == heat_map.svg(figure)
    assert all(
        len(figure[side][name]) == len(figure[side]["tokens"])
        for side in ("chosen", "rejected")
        for name in figure[side]
    )
    page = heat_map.html(figure)
    assert page.count('class="token') == sum(len(figure[side]["tokens"]) for side in ("chosen", "rejected"))


def test_a_public_symbol_without_a_docstring_stops_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "prefopt" / "bare"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__all__ = ["bare"]\n\n\ndef bare():\n    return 1\n')
    monkeypatch.setattr("prefopt.__path__", [str(tmp_path / "prefopt")])
    monkeypatch.setattr(interface, "ROOT", tmp_path)
    interface.symbols.cache_clear()
    try:
        with pytest.raises(
            interface.UndocumentedError, match=r"prefopt/bare/__init__.py:4: prefopt.bare.bare is public"
        ):
            interface.symbols()
    finally:
        interface.symbols.cache_clear()
        sys.modules.pop("prefopt.bare", None)
        vars(prefopt).pop("bare", None)


def test_signatures() -> None:
    source = "@property\ndef f(self, a: int, *rest: str, b: float = 0.5, c=None, **more: int) -> None: ..."
    assert signature(ast.parse(source).body[0]) == (
        "@property\ndef f(a: int, *rest: str, b: float = 0.5, c=None, **more: int) -> None"
    )
    source = "class C(B):\n    x: int = 1\n    _y: int = 2\n    def __init__(self, z): ..."
    assert signature(ast.parse(source).body[0]) == "class C(B)\n    x: int = 1\n    def __init__(z)"


def test_messages_are_read_off_the_code() -> None:
    source = """
def check(row, value, name):
    if value is None:
        raise row.bad("chosen", f"found {value!r} here", "give text" " or messages")
    _LOG.warning("%d of %.2f steps were left out" if name else "no step was left out", 1, 2)
    raise ValueError(name)
"""
    assert sorted(set(messages.spoken(ast.parse(source)))) == [
        "found … here; give text or messages",
        "no step was left out",
        "… of … steps were left out",
    ]
