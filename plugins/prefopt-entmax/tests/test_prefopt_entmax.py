"""The component keeps what every token weighting has to keep, and its weights are those of the definition."""

from __future__ import annotations

import math

import pytest
import torch
from prefopt_entmax import EntmaxWeighting
from pydantic import ValidationError

from prefopt import Objective, ObjectiveConfig, PreferenceBatch, Signal, TokenBatch, zoo
from prefopt.scoring import PreferenceModel
from prefopt.testing import conformance

ALPHAS = (1.25, 1.5, 1.75, 2.0)


@conformance(
    EntmaxWeighting(),
    EntmaxWeighting(alpha=2, position="token"),
    EntmaxWeighting(alpha=1.2),
)
def test_conformance(check):
    check()


def batch(lengths, *, layers=2, hidden=4, seed=0, dtype=torch.float64, width=None):
    """Responses of these lengths whose states are random, and NaN in the padding."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(width or max(lengths)) < torch.tensor(lengths)[:, None]
    states = torch.randn(layers, *mask.shape, hidden, generator=draw, dtype=torch.float64).to(dtype)
    states = torch.where(mask[None, :, :, None], states, torch.nan)
    none = torch.zeros(mask.shape, dtype=dtype)
    return TokenBatch(
        logps=none,
        ref_logps=none,
        mask=mask,
        token_ids=mask.long(),
        ref_hidden_states=states,
        ref_token_states=2 * states.flip(-1),
    )


def built(alpha, *, scale=1.0, seed=0, dtype=torch.float64, **fields):
    mask = EntmaxWeighting(alpha=alpha, **fields).build(num_layers=2, hidden_size=4).to(dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        mask.weight.copy_(scale * torch.randn(mask.weight.shape, generator=draw, dtype=torch.float64))
    return mask


def scores_of(mask, tokens, row, length):
    """The scores of a row's tokens, written out."""
    total = torch.zeros(length, dtype=torch.float64)
    for u, states in zip(mask.weight.detach().double(), tokens.ref_hidden_states.double(), strict=True):
        for t in range(length):
            h = states[row, t]
            total[t] += (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt() @ u
    return total / len(mask.weight)


def entmax_of(scores, alpha):
    """p_t = max((alpha - 1) s_t - tau, 0)^(1 / (alpha - 1)), with the tau for which they add up to one."""
    x = (alpha - 1) * scores
    low, high = float(x.max()) - 1, float(x.max())
    for _ in range(200):
        tau = (low + high) / 2
        total = float(((x - tau).clamp(min=0) ** (1 / (alpha - 1))).sum())
        low, high = (tau, high) if total > 1 else (low, tau)
    return (x - tau).clamp(min=0) ** (1 / (alpha - 1))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_weights_are_those_of_the_definition(alpha):
    lengths = (5, 1, 9, 3)
    tokens, mask = batch(lengths), built(alpha)
    weights = mask(tokens)
    for row, length in enumerate(lengths):
        expected = length * entmax_of(scores_of(mask, tokens, row, length), alpha)
        torch.testing.assert_close(weights[row, :length], expected, rtol=0, atol=1e-6)
        assert not weights[row, length:].any()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_gradient_is_that_of_the_value(alpha):
    tokens, mask = batch((5, 1, 4, 0)), built(alpha)
    direction = torch.randn(tokens.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(weight):
        return (torch.func.functional_call(mask, {"weight": weight}, tokens) * direction).sum()

    assert torch.autograd.gradcheck(value, mask.weight.detach().clone().requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_mean_is_one_and_a_sharper_score_makes_more_zeros(alpha):
    lengths = torch.tensor((30, 7, 1, 12))
    tokens = batch(lengths.tolist())
    zeros = []
    for scale in (1e-3, 0.3, 30.0):
        weights = built(alpha, scale=scale)(tokens)
        torch.testing.assert_close(weights.sum(-1), lengths.double())
        zeros.append(int((weights == 0)[tokens.mask].sum()))
    assert zeros == sorted(zeros)
    assert zeros[0] == 0
    assert zeros[-1] > len(zeros)


def test_sparser_with_alpha():
    tokens = batch((40, 40))
    zeros = [int((built(alpha, scale=2.0)(tokens) == 0).sum()) for alpha in ALPHAS]
    assert zeros == sorted(zeros)
    assert zeros[0] < zeros[-1]


def test_empty_responses_have_no_weight_and_no_gradient():
    tokens, mask = batch((3, 0, 0, 1)), built(1.5)
    weights = mask(tokens)
    (gradient,) = torch.autograd.grad(weights[:, 0].sum(), mask.weight)
    assert weights[1:3].tolist() == [[0.0] * 3] * 2
    assert weights[3].tolist() == [1.0, 0.0, 0.0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_every_weight_is_one_at_the_start_where_every_parameter_has_a_gradient(alpha):
    tokens = batch((6, 3, 4, 5), dtype=torch.float32)
    mask = EntmaxWeighting(alpha=alpha).build(num_layers=2, hidden_size=4)
    weights = mask(tokens)
    torch.testing.assert_close(weights, tokens.mask.float())
    rewards = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weights * rewards).sum(), mask.weight)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("alpha", ALPHAS)
def test_single_precision_is_near_double_on_long_responses(alpha):
    double = built(alpha)(batch((1500, 900)))
    single = built(alpha, dtype=torch.float32)(batch((1500, 900), dtype=torch.float32))
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=2e-3)


def test_the_position_says_whose_states_are_read():
    tokens, weights = batch((5, 4)), {}
    for position, signal in (("predicting", Signal.REF_HIDDEN_STATES), ("token", Signal.REF_TOKEN_STATES)):
        assert EntmaxWeighting(position=position).requires == {signal}
        weights[position] = built(1.5, position=position)(tokens.replace(**{str(signal): tokens.ref_hidden_states}))
    assert torch.equal(weights["predicting"], weights["token"])
    assert not torch.equal(weights["token"], built(1.5, position="token")(tokens))


@pytest.mark.parametrize("wrong", [{"alpha": 1}, {"alpha": 2.1}, {"alpha": math.nan}, {"position": "after"}])
def test_other_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        EntmaxWeighting(**wrong)


def test_a_reference_of_another_depth_is_an_error():
    with pytest.raises(ValueError, match="built for 2 layers, but the reference gave states of 3"):
        built(1.5)(batch((3, 2), layers=3))


def test_training_moves_the_weights_to_the_tokens_that_tell():
    """Two models that differ on few tokens: a few steps on the mask alone lower the loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def model(seed):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
        return LlamaForCausalLM(config)

    objective = zoo.build({"zoo": "tdpo1", "beta": 1.0, "weighting": {"name": "entmax"}})
    scored = PreferenceModel(model(0), model(1), objective)
    pairs = PreferenceBatch.from_ids(
        [[1, 2, 3], [4, 5]], [[6, 7, 8, 9], [10, 11]], [[12, 13], [14, 15, 16, 17, 18]], pad_token_id=0
    )
    optimizer = torch.optim.Adam(scored.objective.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        output = scored(pairs)
        losses.append(float(output.loss.detach()))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert float(output.weights.sum()) == pytest.approx(4 + 2 + 2 + 5, rel=1e-5)


def test_saved_and_loaded(tmp_path):
    objective = Objective(ObjectiveConfig(weighting={"name": "entmax", "alpha": 1.3}), num_layers=2, hidden_size=4)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    objective.save(tmp_path)
    tokens = batch((4, 3), dtype=torch.float32)
    assert torch.equal(Objective.load(tmp_path)(tokens).weights, objective(tokens).weights)
