"""What the documentation is made of besides pages: formulas and figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html import unescape

import pytest

from docs_site import formulas, heat_map
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


def texts(html: str) -> list[str]:
    """The text of each <math>, signs as they are shown, without spaces."""
    root = ET.fromstring(html.replace("&nbsp;", " "))
    return ["".join(element.itertext()).replace(" ", "") for element in root.iter("math")]


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_equation_of_the_code_is_typeset_whole(name: str) -> None:
    html = formulas.inline(EQUATIONS[name])
    shown = "".join("".join(ET.fromstring(html).itertext()).split())
    assert ET.fromstring(html).attrib == {"role": "math", "aria-label": unescape(EQUATIONS[name])}
    assert all(sign in shown for sign in set(EQUATIONS[name]) & set("=,+<>"))
    assert shown.count("(") == shown.count(")") or "[0, 1)" in EQUATIONS[name]
    assert "_" not in "".join(texts(html))


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
