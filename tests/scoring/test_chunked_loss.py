"""The loss in groups of pairs, against that of all pairs at once, in float64."""

from __future__ import annotations

import pytest
import torch

from prefopt import zoo
from prefopt.divergences import JensenShannon
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.scoring.chunked_loss import chunked_loss
from prefopt.scoring.lm_head.online_softmax import OnlineSoftmaxKernel
from prefopt.scoring.pair_groups import group_pairs

MASKED = zoo.sparsepo(shared=False)
OBJECTIVES = {
    "dpo": zoo.dpo(),
    "simpo": zoo.simpo(),
    "ld_dpo": zoo.ld_dpo(),
    "tdpo2": zoo.tdpo2(),
    "mapo": zoo.mapo(),
    "sparsepo": MASKED,
    "rpo": zoo.rpo(),
    "tbpo_a": zoo.tbpo_a(),
    "whole distributions": ObjectiveConfig(divergence=DivergenceTerm(measure=JensenShannon())),
}


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


def step(models, batch, objective, budget, *, scale=1.0):
    """The output and the gradients of a step."""
    torch.manual_seed(0)
    scored = PreferenceModel(*models, objective, logits_budget=budget)
    scored.objective.double()
    with torch.no_grad():
        for parameter in scored.objective.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    scored.zero_grad()
    output = scored(batch)
    (scale * output.loss).backward()
    return output, {
        name: parameter.grad.clone() for name, parameter in scored.named_parameters() if parameter.grad is not None
    }


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_same_output_and_gradients(models, batch, objective):
    whole, expected = step(models, batch, objective, 2**30)
    for budget in (0, 20 * 64 * 8 * 2):
        apart, gradients = step(models, batch, objective, budget)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(
                gradients[name], gradient, rtol=1e-9, atol=1e-13, msg=lambda text, n=name: n + text
            )
        for name in ("loss", "losses", "rewards", "weights", "divergence_weights"):
            ours, theirs = getattr(apart, name), getattr(whole, name)
            assert (ours is None) == (theirs is None)
            if theirs is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        for name, mean in whole.metrics.items():
            assert apart.metrics[name].value == pytest.approx(mean.value, rel=1e-5, abs=1e-6), name
        torch.testing.assert_close(apart.tokens.logps, whole.tokens.logps, rtol=1e-9, atol=1e-12)


def test_the_loss_may_be_scaled(models, batch):
    _, expected = step(models, batch, MASKED, 2**30, scale=0.25)
    _, gradients = step(models, batch, MASKED, 0, scale=0.25)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-13)


def test_only_the_loss_carries_gradient(models, batch):
    for budget in (0, 2**30):
        output = PreferenceModel(*models, MASKED, logits_budget=budget)(batch)
        assert output.loss.requires_grad
        assert not output.losses.requires_grad


def test_no_logits_are_computed_twice(models, batch, monkeypatch):
    """Where a pair's logits fit the budget, each chunk meets each head once."""
    seen, kept = [], []
    monkeypatch.setattr(
        "prefopt.scoring.model.chunked_loss", lambda *args: seen.append(len(args[1])) or chunked_loss(*args)
    )
    forward = OnlineSoftmaxKernel.forward
    monkeypatch.setattr(
        OnlineSoftmaxKernel,
        "forward",
        lambda kernel, hidden, chunk, keep: kept.append(keep) or forward(kernel, hidden, chunk, keep),
    )
    longest = int((batch.chosen_mask.sum(-1) + batch.rejected_mask.sum(-1)).max())
    scored = PreferenceModel(*models, MASKED, logits_budget=longest * scored_width(models) * 2)
    with torch.no_grad():
        scored(batch)
    kept.clear()
    scored(batch).loss.backward()
    assert len(seen) == 1
    assert len(kept) == seen[0] > 1
    assert all(kept)


def scored_width(models):
    weight = models[0].get_output_embeddings().weight
    return len(weight) * weight.element_size()


@pytest.mark.parametrize("objective", [zoo.bco(), zoo.aot(), zoo.mpo()], ids=["bco", "aot", "mpo"])
def test_pairs_that_depend_on_each_other_stay_together(models, batch, objective):
    scored = PreferenceModel(*models, objective, logits_budget=0)
    assert not scored.objective.takes_pairs_apart
    _, gradients = step(models, batch, objective, 0)
    _, expected = step(models, batch, objective, 2**30)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-13)


def test_groups_are_as_full_as_may_be():
    """Lengths of the four pairs: 2 + 1, 1 + 1, 3 + 3, 1 + 2."""
    steps = torch.arange(3)
    mask = steps < torch.tensor([2, 1, 3, 1, 1, 1, 3, 2])[:, None]
    groups = group_pairs(mask, 5)
    assert [group.pairs for group in groups] == [2, 1, 1]
    assert [group.rows.tolist() for group in groups] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    tokens = mask.nonzero()[:, 0].tolist()
    for group in groups:
        assert [tokens[index] for index in group.tokens] == [
            row for row in group.rows.tolist() for _ in range(int(mask[row].sum()))
        ]
    assert [group.pairs for group in group_pairs(mask, 100)] == [4]
    assert [group.pairs for group in group_pairs(mask, 0)] == [1, 1, 1, 1]


def test_groups_are_as_even_as_may_be():
    """Six pairs of 2 tokens: under a limit of 11, groups of 6 and 6, not of 10 and 2. One that exceeds it is alone."""
    mask = torch.ones(12, 1, dtype=torch.bool)
    assert [group.pairs for group in group_pairs(mask, 11)] == [3, 3]
    assert [group.pairs for group in group_pairs(mask, 8)] == [3, 3]
    assert [group.pairs for group in group_pairs(mask, 5)] == [2, 2, 2]
    lengths = torch.tensor([1, 1, 9, 1, 1, 1])
    long = torch.arange(9) < lengths.repeat(2)[:, None]
    groups = group_pairs(long, 6)
    assert [group.pairs for group in groups] == [2, 1, 3]
    assert [group.exceeds for group in groups] == [False, True, False]


def test_a_second_backward_is_refused(models, batch):
    loss = PreferenceModel(*models, MASKED, logits_budget=0)(batch).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()
