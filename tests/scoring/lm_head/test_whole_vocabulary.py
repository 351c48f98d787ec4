"""The accelerators' kernel, on the CPU: the numbers of the CPU's own kernel, compiled and as it is written."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch

from prefopt.divergences import ForwardKL, ReverseKL
from prefopt.scoring.lm_head import token_statistics as statistics_module
from prefopt.scoring.lm_head import whole_vocabulary
from prefopt.scoring.lm_head.whole_vocabulary import WholeVocabularyKernel
from tests.scoring.token_cases import HEADS, assert_same, fused, gradients, loss_of, name_of, setting

every_divergence = pytest.mark.parametrize("divergence", [None, ForwardKL(), ReverseKL()], ids=name_of)


def of_kernel(monkeypatch, at, divergence, budget):
    """Statistics and gradients under the kernel."""
    with monkeypatch.context() as patch:
        patch.setattr(statistics_module, "OnlineSoftmaxKernel", WholeVocabularyKernel)
        return everything(at, divergence, budget)


def everything(at, divergence, budget):
    statistics = fused(at, divergence, budget=budget, log_collision=True)
    return [*statistics, *gradients(at, loss_of(at, statistics))]


@pytest.mark.parametrize("head", HEADS, ids=name_of)
@every_divergence
@pytest.mark.parametrize("budget", [0, None])
def test_the_numbers_of_the_kernel_for_cpus(divergence, budget, head, monkeypatch):
    at = setting(**head)
    assert_same(
        of_kernel(monkeypatch, at, divergence, budget), everything(at, divergence, budget), rtol=1e-10, atol=1e-12
    )


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every_divergence
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_passes_have_the_numbers_of_those_as_written(divergence, monkeypatch):
    at = setting(bias=True)
    written = of_kernel(monkeypatch, at, divergence, None)
    monkeypatch.setattr(whole_vocabulary, "COMPILED", frozenset({"cpu"}))
    whole_vocabulary._compiles.cache_clear()
    assert_same(of_kernel(monkeypatch, at, divergence, None), written, rtol=1e-10, atol=1e-12)


def test_what_does_not_compile_is_told_and_runs_as_written(monkeypatch):
    at = setting()
    written = of_kernel(monkeypatch, at, ForwardKL(), None)

    def fails(*_, **__):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    monkeypatch.setattr(whole_vocabulary, "COMPILED", frozenset({"cpu"}))
    monkeypatch.setattr(torch, "compile", fails)
    whole_vocabulary._compiles.cache_clear()
    try:
        with pytest.warns(UserWarning, match="not fused, since torch.compile fails on cpu .*Failed to find C compiler"):
            assert_same(of_kernel(monkeypatch, at, ForwardKL(), None), written)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            of_kernel(monkeypatch, at, ForwardKL(), None)
    finally:
        whole_vocabulary._compiles.cache_clear()
