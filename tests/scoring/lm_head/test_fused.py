"""What torch.compile is asked for, and what happens where it fails."""

from __future__ import annotations

import warnings

import pytest
import torch

from prefopt.scoring.lm_head import fused
from prefopt.scoring.lm_head.fused import run_fused


def exponentials(values):
    return values.exp()


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing is compiled, or known not to be, before a test and after it."""
    yield
    fused._compiled.cache_clear()
    fused._compiles.cache_clear()
    fused._as_written.clear()


def test_each_form_is_compiled_once_and_on_its_own(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled.append(function) or function)
    for form in ("one", "two", "one"):
        assert run_fused(exponentials, form, torch.zeros(2)).tolist() == [1, 1]
    assert len({id(function.__code__) for function in (*compiled, exponentials)}) == 3  # torch keeps forms by the code


def test_what_the_compiler_does_not_take_is_told_once_and_runs_as_written(monkeypatch):
    from torch._dynamo.exc import TorchRuntimeError

    def compiled(function, dynamic):
        def call(values):
            raise TorchRuntimeError("no such kernel\nmore")

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.warns(UserWarning, match=r"not fused, since torch.compile fails on them with alpha .*no such kernel\)"):
        assert run_fused(exponentials, "alpha", torch.zeros(2)).tolist() == [1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_fused(exponentials, "alpha", torch.zeros(2))


def test_an_error_of_a_pass_itself_is_not_the_compilers(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)

    def fails(values):
        raise ValueError("of a divergence")

    with pytest.raises(ValueError, match="of a divergence"):
        run_fused(fails, "alpha", torch.zeros(2))
    assert not fused._as_written


def test_warnings_of_torchs_own_modules_do_not_end_the_trial(monkeypatch):
    def compiled(function):
        warnings.warn("of torch", DeprecationWarning, stacklevel=1)
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(fused, "COMPILED", frozenset({"cpu"}))
    assert fused.fuses("cpu")  # under the filter that makes warnings errors
    assert not fused.fuses("meta")
