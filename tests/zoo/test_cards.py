"""The equations on formula cards and in `prefopt components` are whole."""

from __future__ import annotations

import inspect

import pytest

from prefopt import PreferenceLoss, available
from prefopt.component import Component
from prefopt.hookspecs import KINDS
from prefopt.losses import AotLoss, AotPairedLoss, ExoLoss
from prefopt.zoo import ZOO
from prefopt.zoo.cards import card, equation_of

COMPONENTS = [pytest.param(cls, id=f"{kind.hook}-{name}") for kind in KINDS for name, cls in available(kind).items()]


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_equation_is_the_whole_first_paragraph(component: type[Component]) -> None:
    equation = equation_of(component)
    docstring = " ".join((inspect.getdoc(component) or "").split())
    assert docstring.startswith(equation)
    assert "=" in equation
    assert equation.endswith(".")
    assert "Source:" not in equation
    for left, right in ("()", "[]"):
        intervals = equation.count("[0, 1)")
        assert equation.count(left) + intervals * (left == "(") == equation.count(right) + intervals * (right == "]")


def test_equations_of_two_lines_are_not_cut() -> None:
    assert {loss: equation_of(loss).rpartition(" ")[2] for loss in (AotLoss, AotPairedLoss, ExoLoss)} == {
        AotLoss: "smallest.",
        AotPairedLoss: "pi_ref(y_j).",
        ExoLoss: "e).",
    }


def test_the_reduction_of_units_is_on_the_card() -> None:
    assert card("tbpo_a").reduction.endswith(
        "Then a mean over the units of a pair, units without a partner left out. Then a mean over pairs."
    )
    assert "Then a sum over the units of a pair, 0 for the partner" in card("contrastive_dpo_released").reduction
    assert "a mean, weighted by gap_reasoning and gap_answer, over the units" in card("aw_dpo").reduction


def test_cards_show_the_components_within_others() -> None:
    assert [slot[1] for slot in card("confpo").slots][:2] == ["scaled", "low_confidence"]
    assert {"mixture", "logistic", "bco"} <= {slot[1] for slot in card("mpo").slots}


def test_cards_hold_the_whole_equations_of_their_losses() -> None:
    losses = {slot[1]: slot[2] for name in ZOO for slot in card(name).slots if slot[0] == PreferenceLoss.kind}
    assert {"aot", "aot_paired", "exo"} <= set(losses)
    assert losses == {name: equation_of(available(PreferenceLoss)[name]) for name in losses}
