"""A pair beyond the budget: its head is gone through once where its gradients are foreseen, and twice where not."""

from __future__ import annotations

import pytest
import torch

from prefopt import PreferenceBatch, zoo
from prefopt.divergences import JensenShannon
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.scoring.lm_head.foreseen import Foreseen
from prefopt.scoring.lm_head.head import Head
from tests.scoring.test_chunked_loss import step

OF_THE_MARGIN = {
    "dpo": zoo.dpo(),
    "ipo": zoo.ipo(),
    "simpo": zoo.simpo(),
    "tdpo2": zoo.tdpo2(),
    "mapo": zoo.mapo(),
    "sparsepo": zoo.sparsepo(shared=False),
    "whole distributions": ObjectiveConfig(divergence=DivergenceTerm(measure=JensenShannon())),
}
OF_MORE = {"rpo": zoo.rpo(), "orpo": zoo.orpo(), "tbpo_a": zoo.tbpo_a()}
"""Losses that reach some tokens by another way than a margin that is linear in them."""
VOCABULARY = 64


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


@pytest.fixture
def counted(monkeypatch):
    """The tokens of each product with a head's weights for logits."""
    heights, logits = [], Head.logits
    monkeypatch.setattr(
        Head, "logits", lambda head, hidden, out=None: heights.append(len(hidden)) or logits(head, hidden, out)
    )
    return heights


def pair(length=36):
    """One pair of two responses of `length` and `length` - 2 tokens."""
    draw = torch.Generator().manual_seed(3)
    ids = [torch.randint(1, VOCABULARY, (1, size), generator=draw).tolist() for size in (4, length, length - 2)]
    return PreferenceBatch.from_ids(*ids, pad_token_id=0)


def scored_by(models, objective, budget):
    """A model whose masks, if it has any, weigh something."""
    scored = PreferenceModel(*models, objective, logits_budget=budget)
    with torch.no_grad():
        for parameter in scored.objective.parameters():
            parameter.add_(0.5)
    return scored


def logits_of_a_step(scored, batch, counted):
    scored(batch)
    counted.clear()
    scored(batch).loss.backward()
    return sum(counted)


@pytest.mark.parametrize("objective", [*OF_THE_MARGIN.values(), *OF_MORE.values()], ids=[*OF_THE_MARGIN, *OF_MORE])
def test_the_same_output_and_gradients(models, objective, batch):
    gradient = models[0].get_output_embeddings().weight.numel() * 8
    for pairs in (pair(), batch):
        whole, expected = step(models, pairs, objective, 2**30)
        output, gradients = step(models, pairs, objective, gradient)
        torch.testing.assert_close(output.loss, whole.loss, rtol=1e-9, atol=1e-12)
        assert gradients.keys() == expected.keys()
        for name, theirs in expected.items():
            torch.testing.assert_close(
                gradients[name], theirs, rtol=1e-9, atol=1e-13, msg=lambda text, n=name: n + text
            )


@pytest.mark.parametrize("objective", OF_THE_MARGIN.values(), ids=OF_THE_MARGIN)
def test_what_is_foreseen_is_computed_once(models, objective, counted):
    gradient = models[0].get_output_embeddings().weight.numel() * 8
    scored = scored_by(models, objective, gradient)
    once = logits_of_a_step(scored_by(models, objective, 2**30), pair(), counted)
    assert logits_of_a_step(scored, pair(), counted) == once
    scored.logits_budget = gradient - 1  # the head's gradient does not fit, and is not held twice
    assert once < logits_of_a_step(scored, pair(), counted) <= 2 * once
    models[0].get_output_embeddings().weight.requires_grad_(False)  # as under an adapter: there is none
    scored.logits_budget = 0
    assert logits_of_a_step(scored, pair(), counted) == once


@pytest.mark.parametrize("objective", OF_MORE.values(), ids=OF_MORE)
def test_what_is_not_foreseen_is_not_tried(models, objective, counted, monkeypatch):
    taken = []
    monkeypatch.setattr("prefopt.scoring.lm_head.foreseen.Ahead.begin", lambda *_: taken.append(1))
    gradient = models[0].get_output_embeddings().weight.numel() * 8
    scored = scored_by(models, objective, gradient)
    once = logits_of_a_step(scored_by(models, objective, 2**30), pair(), counted)
    assert once < logits_of_a_step(scored, pair(), counted) <= 2 * once
    assert not taken


def test_gradients_that_are_others_than_foreseen_are_computed_anew(models, monkeypatch):
    """Foreseen wrongly, the gradients are still right."""
    objective = zoo.tdpo2()
    gradient = models[0].get_output_embeddings().weight.numel() * 8
    _, expected = step(models, pair(), objective, 2**30)

    def wrong(objective, layout, *_):
        values = torch.randn(2, len(layout.labels), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return Foreseen(*values)

    monkeypatch.setattr("prefopt.scoring.chunked_loss.foreseen_gradients", wrong)
    _, gradients = step(models, pair(), objective, gradient)
    for name, theirs in expected.items():
        torch.testing.assert_close(gradients[name], theirs, rtol=1e-9, atol=1e-13)


def test_an_objective_is_not_moved_by_being_asked(models):
    """Random numbers that it draws are drawn again, and what it keeps it keeps."""
    gradient = models[0].get_output_embeddings().weight.numel() * 8
    scored = PreferenceModel(*models, zoo.dpo(), logits_budget=gradient)
    scored(pair())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    scored(pair()).loss.backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_factor_is_that_of_all_gradients():
    draw = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 50, generator=draw)
    foreseen = Foreseen(one, two)
    for factor in (-3e-7, 0.0, 1.0, 2e9):
        actual = foreseen.factor(factor * one, factor * two)
        assert actual is not None
        assert float(actual) == pytest.approx(factor, rel=1e-5)
    assert foreseen.factor(one, -two) is None
    assert foreseen.factor(one, two + torch.eye(1, 50)[0] * 1e-3) is None
    assert foreseen.factor(one, two * torch.nan) is None
    nothing = Foreseen(0 * one, 0 * two)
    assert nothing.factor(one, two) is None
    assert nothing.factor(0 * one, 0 * two) is not None
