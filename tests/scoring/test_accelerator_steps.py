"""Whole steps through the accelerators' kernel, on the CPU, against those through the CPU's own, in float64."""

from __future__ import annotations

import shutil

import pytest
import torch

from prefopt import zoo
from prefopt.divergences import ReverseKL
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.scoring.lm_head import fused
from prefopt.scoring.lm_head import token_statistics as statistics_module
from prefopt.scoring.lm_head.whole_vocabulary import WholeVocabularyKernel
from tests.scoring.test_chunked_loss import step
from tests.scoring.test_foreseen import pair

OBJECTIVES = {
    "no divergence": zoo.dpo(),
    "forward KL": zoo.tdpo2(),
    "forward KL and masks": zoo.sparsepo(shared=False),
    "reverse KL": ObjectiveConfig(divergence=DivergenceTerm(measure=ReverseKL())),
}


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


def assert_same_steps(models, objective, batch, monkeypatch):
    """All pairs at once; in groups, some of one token's budget; and a pair whose gradients are foreseen."""
    gradient = models[0].get_output_embeddings().weight.numel() * 8
    for pairs, budget in ((batch, 2**30), (batch, 20 * 64 * 8 * 2), (batch, 0), (pair(), gradient)):
        expected, gradients = step(models, pairs, objective, budget)
        with monkeypatch.context() as patch:
            patch.setattr(statistics_module, "OnlineSoftmaxKernel", WholeVocabularyKernel)
            output, ours = step(models, pairs, objective, budget)
        torch.testing.assert_close(output.losses, expected.losses, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(output.rewards, expected.rewards, rtol=1e-9, atol=1e-12)
        assert ours.keys() == gradients.keys()
        for name, theirs in gradients.items():
            torch.testing.assert_close(ours[name], theirs, rtol=1e-8, atol=1e-12, msg=lambda text, n=name: n + text)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_steps_of_the_kernel_for_cpus(models, batch, objective, monkeypatch):
    assert_same_steps(models, objective, batch, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_steps_of_compiled_passes(models, batch, objective, monkeypatch):
    monkeypatch.setattr(fused, "COMPILED", frozenset({"cpu"}))
    fused._compiles.cache_clear()
    assert_same_steps(models, objective, batch, monkeypatch)
    assert not fused._as_written
