"""The signals and columns that objectives ask for, through a model: sampled divergences, two like draws, columns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prefopt import DivergenceTerm, ObjectiveConfig, zoo
from prefopt.divergences import ForwardKL, SampledK1, SampledK3
from prefopt.losses import LogisticLoss, OnPolicyWeightedLoss, WeightedLoss
from prefopt.scoring import PreferenceModel
from prefopt.scoring.lm_head import token_statistics as statistics
from prefopt.weightings import ColumnWeighting


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


@pytest.mark.parametrize("measure", [SampledK1(), SampledK3(direction="reverse")], ids=str)
@pytest.mark.parametrize("plain", [False, True])
def test_a_sampled_divergence_is_that_of_the_response_tokens(models, batch, measure, plain):
    config = ObjectiveConfig(divergence=DivergenceTerm(measure=measure))
    model = PreferenceModel(*models, config)
    model._choice.uses_plain_forward = plain
    tokens = model.score(batch)
    expected = torch.where(tokens.mask, measure(tokens.logps, tokens.ref_logps), 0)
    torch.testing.assert_close(tokens.divergence, expected, rtol=0, atol=0)
    assert tokens.divergence.requires_grad
    model(batch).loss.backward()


def test_a_sampled_divergence_never_sees_the_vocabulary(models, batch, monkeypatch):
    asked = []
    real = statistics.token_statistics

    def watched(*args, **options):
        asked.append(args[5])
        return real(*args, **options)

    monkeypatch.setattr("prefopt.scoring.chunked_loss.token_statistics", watched)
    for measure in (SampledK1(), ForwardKL()):
        PreferenceModel(*models, ObjectiveConfig(divergence=DivergenceTerm(measure=measure))).score(batch)
    assert asked == [None, ForwardKL()]


@pytest.mark.parametrize("plain", [False, True])
def test_wpo_weighs_by_the_policys_own_distribution(models, batch, plain):
    model = PreferenceModel(*models, zoo.wpo(beta=0.5))
    model._choice.uses_plain_forward = plain
    tokens = model.score(batch)
    policy, _ = models
    whole = PreferenceModel(
        policy, None, ObjectiveConfig(loss=OnPolicyWeightedLoss(loss=LogisticLoss()), reference_free=True)
    )
    torch.testing.assert_close(whole.score(batch).log_collision, tokens.log_collision)
    assert bool((tokens.log_collision[tokens.mask] < 0).all())
    assert not tokens.log_collision.requires_grad
    output = model.objective(tokens)
    aligned = torch.where(tokens.mask, tokens.logps - tokens.log_collision, 0).sum(-1) / tokens.mask.sum(-1)
    weights = aligned.chunk(2)[0].exp() * aligned.chunk(2)[1].exp()
    plain_losses = PreferenceModel(*models, zoo.dpo(beta=0.5))(batch).losses
    torch.testing.assert_close(output.losses, weights.detach() * plain_losses)


def test_columns_reach_the_components(models, batch):
    config = ObjectiveConfig(weighting=ColumnWeighting(default=0.5), loss=WeightedLoss(loss=LogisticLoss()))
    draw = torch.Generator().manual_seed(2)
    columns = {
        "pair:weight": torch.rand(batch.pairs, generator=draw),
        "chosen:weights": torch.rand(batch.chosen_ids.shape, generator=draw),
        "rejected:weights": torch.rand(batch.rejected_ids.shape, generator=draw),
    }
    batch = type(batch).from_mapping(replace(batch, columns=columns).as_mapping())
    output = PreferenceModel(*models, config)(batch)
    for row in range(2 * batch.pairs):
        side = "chosen" if row < batch.pairs else "rejected"
        given = columns[f"{side}:weights"][row % batch.pairs][getattr(batch, f"{side}_mask")[row % batch.pairs]]
        torch.testing.assert_close(output.weights[row][output.tokens.mask[row]], given, check_dtype=False)
    margins = output.rewards.chunk(2)[0] - output.rewards.chunk(2)[1]
    torch.testing.assert_close(output.losses, -columns["pair:weight"] * torch.nn.functional.logsigmoid(margins))
