"""prefopt check, as typed."""

from __future__ import annotations

import pytest

from tests.cli.test_cli import run
from tests.little_plugins import Install


def test_a_component_that_passes() -> None:
    output = run("check", "uniform", "value=0.5")
    assert output.startswith("uniform(value=0.5), a token weighting")
    assert "mean weight at the start: 0.5" in output
    assert "none failed" in output


ENDLESS = """
from typing import Literal
from prefopt import PreferenceLoss, hookimpl

class Endless(PreferenceLoss):
    \"\"\"loss = -d. Source: this test.\"\"\"
    name: Literal["endless"] = "endless"

    def __call__(self, chosen, rejected, tokens):
        return rejected - chosen

class Raising(Endless):
    name: Literal["raising"] = "raising"

    def __call__(self, chosen, rejected, tokens):
        return chosen.margin

@hookimpl
def prefopt_preference_losses():
    return [Endless, Raising]
"""


def test_a_failure_says_what_on_which_input_and_why(install: Install) -> None:
    install("endless-plugin", ENDLESS)
    output = run("check", "endless", exit_code=1)
    assert "its lowest value goes from -2e+03 to -2e+06" in output
    assert "on: rewards up to 1e3, then 1e6" in output
    assert "why: A loss that does is lowest where the policy is broken" in output
    assert " checks, 1 failed." in output
    expected = run("check", "endless", "--expect", "loss_is_bounded_below")
    assert "named by --expect" in expected
    assert "none failed, 1 failed as expected." in expected
    raised = run("check", "raising", exit_code=1)
    assert raised.count("AttributeError: 'Tensor' object has no attribute 'margin'") == 1
    assert "endless_plugin/__init__.py:16, in __call__" in raised
    assert "more checks: deep_copies, one_value_each, " in " ".join(raised.split())
    assert "failed by 2 causes." in raised  # it has no docstring, too


@pytest.mark.slow
def test_a_failure_by_design_is_named_and_none() -> None:
    output = run("check", "robust")
    assert "expected failure" in output
    assert "unbiased under flipped labels, which takes a negative part" in output
    assert "found: its lowest value goes from -250 to -2.5e+05" in output
    run("check", "robust", "label_smoothing=0", "--expect", "loss_is_bounded_below", exit_code=1)


def test_errors_say_how_to_mend_them() -> None:
    assert "Did you mean 'robust'?" in run("check", "robst", exit_code=2)
    assert "Did you mean 'divergence'?" in run("check", "alpha", "--kind", "divergense", exit_code=2)
    assert "no component named 'robust'" in run("check", "robust", "--kind", "divergence", exit_code=2)
    assert "Did you mean 'value'?" in run("check", "uniform", "valeu=1", exit_code=2)
    assert "write a field as field=value" in run("check", "uniform", "0.5", exit_code=2)
    assert "no check 'no_such' concerns uniform" in run("check", "uniform", "--expect", "no_such", exit_code=2)
