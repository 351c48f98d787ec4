"""Turns of others inside a response: the models read them, and no number of the response counts them."""

from __future__ import annotations

import pytest
import torch

from prefopt import PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.reference.cache import response_key, response_keys

CHOSEN_MASKED, REJECTED_MASKED = [[2, 3], [], [0, 3]], [[], [1, 2, 6], []]


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


@pytest.fixture
def masked(make_batch, pairs):
    return make_batch(pairs, chosen_masked=CHOSEN_MASKED, rejected_masked=REJECTED_MASKED)


def scored_tokens(values, masked):
    return values[[index for index in range(len(values)) if index not in masked]]


def by_hand_loss(by_hand, policy, reference, pairs, beta=0.1, alpha=0.5):
    """TDPO2's loss over the tokens that are scored, each predicted from all before it."""
    losses = []
    for (prompt, chosen, rejected), *masks in zip(pairs, CHOSEN_MASKED, REJECTED_MASKED, strict=True):
        (rc, kc), (rj, kj) = (
            [scored_tokens(values, mask) for values in by_hand(policy, reference, prompt, response)]
            for response, mask in zip((chosen, rejected), masks, strict=True)
        )
        z = beta * (rc.sum() - rj.sum()) - alpha * beta * (kj.sum() - kc.sum().detach())
        losses.append(-torch.nn.functional.logsigmoid(z))
    return torch.stack(losses)


def test_loss_and_gradients(models, masked, pairs, by_hand, one_row):
    policy, reference = models
    model = PreferenceModel(policy, reference, zoo.tdpo2(beta=0.1, alpha=0.5))
    expected = by_hand_loss(by_hand, policy, reference, pairs)
    output = model(masked)
    torch.testing.assert_close(output.losses, expected, rtol=1e-9, atol=1e-12)
    assert model.shares_prefix or not one_row
    leaves = list(policy.parameters())
    ours, theirs = (torch.autograd.grad(loss, leaves) for loss in (output.loss, expected.mean()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_what_a_token_batch_holds(models, masked, pairs, by_hand, one_row):
    tokens = PreferenceModel(*models, zoo.tdpo2()).score(masked)
    assert tokens.mask.sum(-1).tolist() == [4, 1, 2, 4, 4, 4]
    steps = torch.arange(tokens.mask.shape[1])
    assert torch.equal(tokens.mask, steps < tokens.mask.sum(-1, keepdim=True))
    responses = [pair[side] for side in (1, 2) for pair in pairs]
    masks = [*CHOSEN_MASKED, *REJECTED_MASKED]
    for row, (response, mask) in enumerate(zip(responses, masks, strict=True)):
        ids = [token for index, token in enumerate(response) if index not in mask]
        assert tokens.token_ids[row][tokens.mask[row]].tolist() == ids
        ratios, _ = by_hand(*models, pairs[row % 3][0], response)
        actual = (tokens.logps - tokens.ref_logps)[row][tokens.mask[row]]
        torch.testing.assert_close(actual, scored_tokens(ratios, mask), rtol=1e-9, atol=1e-12)


def test_columns_go_with_their_tokens(pairs, models):
    columns = {
        f"{side}:w": [[float(index) for index in range(len(pair[number]))] for pair in pairs]
        for number, side in ((1, "chosen"), (2, "rejected"))
    }
    batch = PreferenceBatch.from_ids(
        *zip(*pairs, strict=True),
        pad_token_id=0,
        chosen_masked=CHOSEN_MASKED,
        rejected_masked=REJECTED_MASKED,
        columns=columns,
    )
    tokens = PreferenceModel(*models, zoo.dpo()).score(batch)
    assert [row[mask].tolist() for row, mask in zip(tokens.columns["w"], tokens.mask, strict=True)] == [
        [0, 1, 4, 5],
        [0],
        [1, 2],
        [0, 1, 2, 3],
        [0, 3, 4, 5],
        [0, 1, 2, 3],
    ]


@pytest.mark.slow
def test_a_cache_knows_which_tokens_are_scored(models, masked, batch, pairs, tmp_path):
    keys = response_keys(masked)
    assert keys[0] == response_key(*pairs[0][:2], CHOSEN_MASKED[0]) != response_keys(batch)[0]
    assert keys[1] == response_keys(batch)[1]  # those without such turns keep their keys
    model = PreferenceModel(*models, zoo.tdpo2(), reference_cache=tmp_path)
    for responses in (batch, masked):
        expected = PreferenceModel(*models, zoo.tdpo2())(responses)
        torch.testing.assert_close(model(responses).losses, expected.losses, rtol=1e-9, atol=1e-10)


def test_a_batch_without_such_turns_is_as_before(batch, make_batch, pairs):
    again = make_batch(pairs, chosen_masked=[[]] * 3, rejected_masked=[[]] * 3)
    assert again.as_mapping().keys() == batch.as_mapping().keys()
    with pytest.raises(ValueError, match="a response has no token that is scored"):
        make_batch(pairs, chosen_masked=[[], [0], []])
