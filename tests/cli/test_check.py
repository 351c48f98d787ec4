"""prefopt check, as typed."""

from __future__ import annotations

import pytest

from tests.cli.test_cli import run


def test_a_component_that_passes() -> None:
    output = run("check", "uniform", "value=0.5")
    assert output.startswith("uniform(value=0.5), a token weighting")
    assert "mean weight at the start: 0.5" in output
    assert "none failed" in output


def test_a_failure_says_what_on_which_input_and_why() -> None:
    output = run("check", "robust", exit_code=1)
    assert "its lowest value goes from -250 to -2.5e+05" in output
    assert "on: rewards up to 1e3, then 1e6" in output
    assert "why: A loss that does is lowest where the policy is broken" in output
    assert " checks, 1 failed." in output


@pytest.mark.slow
def test_an_expected_failure_is_none() -> None:
    output = run("check", "robust", "--expect", "loss_is_bounded_below")
    assert "expected failure" in output
    run("check", "robust", "label_smoothing=0", "--expect", "loss_is_bounded_below", exit_code=1)


def test_errors_say_how_to_mend_them() -> None:
    assert "Did you mean 'robust'?" in run("check", "robst", exit_code=2)
    assert "Did you mean 'divergence'?" in run("check", "alpha", "--kind", "divergense", exit_code=2)
    assert "no component named 'robust'" in run("check", "robust", "--kind", "divergence", exit_code=2)
    assert "Did you mean 'value'?" in run("check", "uniform", "valeu=1", exit_code=2)
    assert "write a field as field=value" in run("check", "uniform", "0.5", exit_code=2)
    assert "no check 'no_such' concerns uniform" in run("check", "uniform", "--expect", "no_such", exit_code=2)
