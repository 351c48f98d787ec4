"""A loss that is not finite stops with an error that says which number, of which pair, and what to do."""

from __future__ import annotations

import pytest
import torch

from prefopt import zoo
from prefopt.scoring import NonFiniteError, PreferenceModel

pytestmark = pytest.mark.usefixtures("one_row")

ROWS = [40, 7, 93]
REMEDY = r"A learning rate that is too high, half precision without headroom, or a token that a model excludes"


@pytest.fixture
def batch(make_batch, pairs):
    return make_batch(pairs, rows=ROWS)


@pytest.fixture
def models(tiny, moved):
    """A policy and a reference whose heads have a bias."""
    reference = tiny("phi", dtype=torch.float32)
    return moved(reference), reference


def fails(policy, reference, batch, match, row, objective=None):
    with pytest.raises(FloatingPointError, match=match) as caught:
        PreferenceModel(policy, reference, objective or zoo.tdpo1())(batch)
    assert isinstance(caught.value, NonFiniteError)
    assert caught.value.row == row
    assert caught.match(REMEDY)


def only_in(pairs, pair, side):
    """A token of that response that is in no other sequence, before its end, and where it stands."""
    others = [
        token
        for index, sequences in enumerate(pairs)
        for at, ids in enumerate(sequences)
        if (index, at) != (pair, side)
        for token in ids
    ]
    response = pairs[pair][side]
    return next(
        (token, step) for step, token in enumerate(response[:-1]) if token not in others and response.count(token) == 1
    )


def test_a_weight_that_is_nan(models, batch):
    policy, reference = models
    with torch.no_grad():
        policy.lm_head.weight[3, 2] = torch.nan
    fails(policy, reference, batch, r"`logps` is nan for the chosen response of pair 40, at its token 0 \(id \d+\)", 40)


@pytest.mark.parametrize(("model", "name"), [(0, "logps"), (1, "ref_logps")])
@pytest.mark.parametrize(("pair", "side"), [(2, 1), (1, 2), (0, 2)])
def test_the_pair_and_the_response_are_named(models, batch, pairs, model, name, pair, side):
    """nan in the embedding of one token reaches the response that it is in, and no other row."""
    token, _ = only_in(pairs, pair, side)
    with torch.no_grad():
        models[model].get_input_embeddings().weight[token] = torch.nan
    side_name = ("chosen", "rejected")[side - 1]
    fails(*models, batch, rf"`{name}` is nan for the {side_name} response of pair {ROWS[pair]}, at its", ROWS[pair])


@pytest.mark.parametrize(("model", "name"), [(0, "logps"), (1, "ref_logps")])
def test_a_label_that_a_model_excludes(models, batch, pairs, model, name):
    token, step = only_in(pairs, 1, 2)
    with torch.no_grad():
        models[model].lm_head.bias[token] = -torch.inf
    match = rf"`{name}` is -inf for the rejected response of pair 7, at its token {step} \(id {token}\)"
    fails(*models, batch, match, 7, zoo.dpo())


def test_a_divergence_that_is_infinite(models, batch, pairs):
    """No label is excluded, but the reference allows what the policy excludes."""
    policy, reference = models
    unused = next(token for token in range(64) if all(token not in ids for pair in pairs for ids in pair))
    with torch.no_grad():
        policy.lm_head.bias[unused] = -torch.inf
    fails(policy, reference, batch, "`divergence` is inf for the chosen response of pair 40, at its token 0", 40)
    PreferenceModel(policy, reference, zoo.dpo())(batch)  # which no objective without a divergence minds


def test_a_weight_that_is_huge(models, batch):
    policy, reference = models
    with torch.no_grad():
        policy.lm_head.weight.mul_(1e38)
    fails(policy, reference, batch, "`logps` is (nan|-inf) for the chosen response of pair 40", 40)


def test_a_mask_that_is_nan(models, batch):
    for shared, name in ((True, "weights"), (False, "divergence_weights")):
        scored = PreferenceModel(*models, zoo.sparsepo(shared=shared))
        mask = scored.objective.weighting if shared else scored.objective.divergence_weighting
        with torch.no_grad():
            mask.norm.bias.fill_(torch.nan)
        with pytest.raises(NonFiniteError, match=f"`{name}` is nan for the chosen response of pair 40, at its token 0"):
            scored(batch)


def test_rewards_that_overflow(models, batch):
    """Every token's numbers are finite; it is the sum times beta that is not."""
    fails(*models, batch, r"`rewards` is -?inf for the (chosen|rejected) response of pair 40;", 40, zoo.dpo(beta=3e38))


def test_losses_that_overflow(models, batch):
    fails(*models, batch, "`losses` is inf for pair 40;", 40, zoo.ipo(beta=1e-30))


def test_excluded_entries_are_no_harm_where_both_models_exclude_them(models, batch, pairs):
    """Some models mask the padding rows of their vocabulary so."""
    unused = next(token for token in range(64) if all(token not in ids for pair in pairs for ids in pair))
    with torch.no_grad():
        for model in models:
            model.lm_head.bias[unused] = -torch.inf
    output = PreferenceModel(*models, zoo.tdpo1())(batch)
    output.loss.backward()
    assert bool(torch.isfinite(output.loss))
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in models[0].parameters())
