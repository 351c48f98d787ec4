"""The accelerators' kernel, on the CPU: the numbers of the CPU's own kernel, compiled and as it is written."""

from __future__ import annotations

import shutil
import warnings
import weakref
from dataclasses import replace
from typing import Literal

import pytest
import torch

from prefopt.component import StreamedDivergence
from prefopt.divergences import ForwardKL, ReverseKL
from prefopt.scoring.lm_head import fused as fused_passes
from prefopt.scoring.lm_head import token_statistics as statistics_module
from prefopt.scoring.lm_head.head import Head
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
@every_divergence
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_passes_have_the_numbers_of_those_as_written(divergence, monkeypatch):
    at = setting(bias=True)
    written = of_kernel(monkeypatch, at, divergence, None)
    monkeypatch.setattr(fused_passes, "COMPILED", frozenset({"cpu"}))
    fused_passes._compiles.cache_clear()
    assert_same(of_kernel(monkeypatch, at, divergence, None), written, rtol=1e-10, atol=1e-12)


def test_what_does_not_compile_is_told_and_runs_as_written(monkeypatch):
    at = setting()
    written = of_kernel(monkeypatch, at, ForwardKL(), None)

    def fails(*_, **__):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    monkeypatch.setattr(fused_passes, "COMPILED", frozenset({"cpu"}))
    monkeypatch.setattr(torch, "compile", fails)
    fused_passes._compiles.cache_clear()
    try:
        with pytest.warns(UserWarning, match="not fused, since torch.compile fails on cpu .*Failed to find C compiler"):
            assert_same(of_kernel(monkeypatch, at, ForwardKL(), None), written)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            of_kernel(monkeypatch, at, ForwardKL(), None)
    finally:
        fused_passes._compiles.cache_clear()


@every_divergence
def test_logits_of_the_reference_outlive_no_pass_without_a_divergence(divergence, monkeypatch):
    at, alive, logits = setting(), [], Head.logits

    def tracked(head, hidden, out=None):
        others = [name for name, made in alive if made() is not None]
        made = logits(head, hidden, out)
        alive.append(("reference" if head is at.ref_head else "policy", weakref.ref(made)))
        overlaps.append(others)
        return made

    overlaps: list[list[str]] = []
    monkeypatch.setattr(Head, "logits", tracked)
    of_kernel(monkeypatch, at, divergence, None)
    assert overlaps == ([[], []] if divergence is None else [[], ["policy"]])


FORWARD = ForwardKL()


class Scaled(StreamedDivergence):
    """Forward KL times a factor and a count, with a branch: what a plugin may bring."""

    name: Literal["scaled"] = "scaled"
    factor: float = 1.0
    count: int = 1
    doubled: bool = False

    @property
    def _scale(self) -> float:
        return self.factor * self.count * (2 if self.doubled else 1)

    def __call__(self, logps, ref_logps):
        return self._scale * FORWARD(logps, ref_logps)

    def block_forward(self, exps, ref_exps, log_ratio):
        return self._scale * FORWARD.block_forward(exps, ref_exps, log_ratio)

    def combine(self, sums, scale, ref_scale, log_normaliser_ratio):
        return self._scale * FORWARD.combine(sums / self._scale, scale, ref_scale, log_normaliser_ratio)

    def block_backward(self, block):
        return FORWARD.block_backward(replace(block, g_value=self._scale * block.g_value))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_fields_of_a_divergence_are_read_anew(monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setattr(fused_passes, "COMPILED", frozenset({"cpu"}))
    fused_passes._compiles.cache_clear()
    at, counted = setting(), []
    for fields in ({"factor": 0.5}, {"factor": 0.7}, {"factor": 3.0, "count": 4}, {"doubled": True}):
        expected = everything(at, Scaled(**fields), None)
        assert_same(of_kernel(monkeypatch, at, Scaled(**fields), None), expected, rtol=1e-9, atol=1e-11)
        counted.append(counters["stats"]["unique_graphs"])
    assert [count - counted[0] for count in counted] == [0, 0, 0, 2]  # numbers are inputs, and branches are not
    assert not fused_passes._as_written
