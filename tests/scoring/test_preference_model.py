"""What PreferenceModel promises of any batch: padding, lengths, dropout, frozen references, copies."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from prefopt import zoo
from prefopt.scoring import BufferPool, PreferenceModel
from prefopt.scoring.lm_head import chunk_sizes

BETA, ALPHA = 0.4, 0.7
TDPO2 = zoo.tdpo2(BETA, ALPHA)
LN2 = -torch.nn.functional.logsigmoid(torch.tensor(0.0))

# Every name under which the library's models have a probability of dropping something.
DROPS = ("attn_pdrop", "resid_pdrop", "embd_pdrop", "attention_dropout", "hidden_dropout", "dropout", "layerdrop")
DROPS_OF_OTHERS = ("activation_dropout", "embed_dropout", "resid_dropout", "embedding_dropout")


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


def test_token_batch(models, batch, pairs):
    tokens = PreferenceModel(*models, TDPO2).score(batch)
    responses = [pair[side] for side in (1, 2) for pair in pairs]
    shape = (len(responses), max(map(len, responses)))
    for field in (tokens.logps, tokens.ref_logps, tokens.mask, tokens.token_ids, tokens.divergence):
        assert field.shape == shape
    assert tokens.mask.dtype == torch.bool
    assert tokens.mask.sum(-1).tolist() == list(map(len, responses))
    assert [ids[mask].tolist() for ids, mask in zip(tokens.token_ids, tokens.mask, strict=True)] == responses
    assert tokens.pairs == len(pairs)
    requires_grad = [field.requires_grad for field in (tokens.logps, tokens.divergence, tokens.ref_logps)]
    assert requires_grad == [True, True, False]
    for field in (tokens.logps, tokens.ref_logps, tokens.divergence):
        assert bool((field[tokens.mask] != 0).all())
        assert bool((field[~tokens.mask] == 0).all())
    assert bool((tokens.divergence >= 0).all())
    half = PreferenceModel(*(model.bfloat16() for model in models), TDPO2).score(batch)
    for field in (half.logps, half.ref_logps, half.divergence):
        assert field.dtype == torch.float32


@pytest.mark.parametrize(
    "few",
    [
        [([5], [6], [7])],
        [([5, 6, 7], [8], [9, 10, 11])],
        [([5, 6, 7], [8], [9]), ([1], [2], [3])],
        [([5] * 30, [6, 7], [7]), ([1], [3], [2, 4, 5, 6, 7, 8])],
        [([5, 6], [8, 9, 1], [8, 9, 1])],
    ],
    ids=["all of one token", "one pair", "one-token responses", "one long prompt", "equal responses"],
)
def test_small_batches(models, make_batch, tdpo2_by_hand, few):
    output = PreferenceModel(*models, TDPO2)(make_batch(few))
    torch.testing.assert_close(output.loss, tdpo2_by_hand(*models, few, BETA, ALPHA), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0, 100_000, 2**30])
def test_very_long_responses(tiny, moved, make_batch, tdpo2_by_hand, same_gradients, monkeypatch, budget):
    """Over many chunks of 32 tokens, of which the budget lets backward keep none, those of the gradients that are
    foreseen, or all."""
    monkeypatch.setattr(chunk_sizes, "_CHUNK_BYTES", 1)
    draw = random.Random(1)
    long = [tuple([draw.randrange(64) for _ in range(length)] for length in (40, 600, 590))]
    reference = tiny("gpt2", max_position_embeddings=700)
    policy, other = moved(reference, noise=0.02), moved(reference, noise=0.02)
    output = PreferenceModel(policy, reference, TDPO2, logits_budget=budget)(make_batch(long))
    expected = tdpo2_by_hand(other.eval(), reference, long, BETA, ALPHA)
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=1e-9)
    output.loss.backward()
    expected.backward()
    same_gradients(policy, other, rtol=1e-6, atol=1e-9)


def test_the_buffers_stay_for_later_steps(models, batch, monkeypatch):
    scored = PreferenceModel(*models, TDPO2)
    scored(batch).loss.backward()
    places = set()
    original = BufferPool.take

    def take(workspace, *shape):
        buffer = original(workspace, *shape)
        places.add(buffer.data_ptr())
        return buffer

    monkeypatch.setattr(BufferPool, "take", take)
    scored(batch).loss.backward()
    assert places == {buffer.data_ptr() for buffer in scored._buffer_pool.free}


@pytest.mark.parametrize("objective", [TDPO2, zoo.sparsepo(), zoo.mapo(), zoo.simpo()], ids=lambda o: o.weighting.name)
def test_what_lies_in_the_padding_changes_nothing(models, make_batch, batch, pairs, objective):
    scored = PreferenceModel(*models, objective)
    expected = scored(batch)
    spoiled = batch
    for field in ("prompt", "chosen", "rejected"):
        ids, mask = getattr(batch, f"{field}_ids"), getattr(batch, f"{field}_mask")
        assert not bool(mask.all())
        spoiled = replace(spoiled, **{f"{field}_ids": torch.where(mask, ids, torch.randint_like(ids, -(2**40), 2**40))})
    for other in (spoiled, make_batch(pairs, pad_token_id=63), make_batch(pairs, pad_token_id=-100)):
        output = scored(other)
        for name in ("losses", "rewards", "weights"):
            assert torch.equal(getattr(output, name), getattr(expected, name))


def test_more_padding_changes_nothing(models, batch):
    scored = PreferenceModel(*models, TDPO2)
    wider = batch
    for field in ("prompt", "chosen", "rejected"):
        for part in (f"{field}_ids", f"{field}_mask"):
            wider = replace(wider, **{part: torch.nn.functional.pad(getattr(batch, part), (0, 9))})
    torch.testing.assert_close(scored(wider).losses, scored(batch).losses, rtol=1e-6, atol=1e-9)


def test_the_loss_of_a_pair_does_not_depend_on_its_batch(models, make_batch, batch, pairs):
    scored = PreferenceModel(*models, TDPO2)
    alone = torch.cat([scored(make_batch([pair])).losses for pair in pairs])
    torch.testing.assert_close(scored(batch).losses, alone, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "gptj", "gpt_neo", "falcon", "opt"])
def test_dropout_is_off_while_training(tiny, batch, architecture):
    names = DROPS + DROPS_OF_OTHERS
    policy = tiny(architecture, dtype=torch.float32, **dict.fromkeys(names, 0.5)).train()
    plain = [policy(batch.chosen_ids).logits for _ in range(8)]
    assert not all(torch.equal(logits, plain[0]) for logits in plain)
    before = copy.deepcopy(policy.config)
    sparse = zoo.build({"zoo": "sparsepo", "weighting": {"init": "near_one"}, "regularizers": []})
    for objective in (zoo.dpo(), zoo.tdpo1(), TDPO2, zoo.mapo(), sparse):
        scored = PreferenceModel(policy, copy.deepcopy(policy), objective).train()
        output, again = scored(batch), scored(batch)
        assert torch.equal(output.losses, again.losses)
        assert torch.equal(output.losses, LN2.expand(batch.pairs))
        if objective.divergence is not None:
            assert bool((output.tokens.divergence == 0).all())
    assert policy.config.to_dict() == before.to_dict()  # which is saved with the model


def test_the_policy_learns_from_the_first_step_on(tiny, batch):
    policy = tiny("llama")
    PreferenceModel(policy, copy.deepcopy(policy), zoo.tdpo1())(batch).loss.backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in policy.parameters())


@pytest.mark.parametrize("shared", [True, False])
def test_masks_are_trained_with_the_policy(tiny, moved, batch, shared):
    reference = tiny("llama")
    scored = PreferenceModel(
        copy.deepcopy(reference), reference, zoo.sparsepo(shared=shared, l1_reward=0, l1_divergence=0)
    )
    masks = [scored.objective.weighting] + [scored.objective.divergence_weighting] * (not shared)
    for mask in masks:
        mask.to(torch.float64)
        nn.init.uniform_(mask.weight, 0.1, 0.5)
        nn.init.ones_(mask.bias)
        nn.init.ones_(mask.mixer)
    learned = [parameter for mask in masks for parameter in mask.parameters()]
    policy_and_mask = {id(parameter) for parameter in scored.parameters()}
    assert all(id(parameter) in policy_and_mask and parameter.requires_grad for parameter in learned)
    scored(batch).loss.backward()
    assert all(bool((parameter.grad == 0).all()) for parameter in learned)  # nothing to weigh at the reference
    scored.policy = moved(reference)
    scored(batch).loss.backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in learned)


def test_the_reference_is_frozen(models, batch):
    policy, reference = models
    scored = PreferenceModel(policy, reference, TDPO2)
    before = copy.deepcopy(reference.state_dict())
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    scored(batch).loss.backward()
    torch.optim.SGD([parameter for parameter in scored.parameters() if parameter.requires_grad], lr=0.1).step()
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())


def test_a_reference_free_objective_runs_no_reference(models, batch, monkeypatch):
    policy, reference = models
    expected = PreferenceModel(policy, None, zoo.simpo())(batch)
    assert bool((expected.tokens.ref_logps == 0).all())
    monkeypatch.setattr(reference, "forward", lambda *_, **__: pytest.fail("the reference ran"))
    monkeypatch.setattr(reference.model, "forward", lambda *_, **__: pytest.fail("the reference ran"))
    assert torch.equal(PreferenceModel(policy, reference, zoo.simpo())(batch).loss, expected.loss)


def test_what_a_preference_model_needs(models):
    policy, reference = models
    with pytest.raises(ValueError, match="needs a reference: pass one, or a policy with a PEFT adapter"):
        PreferenceModel(policy, None, zoo.dpo())
    with pytest.raises(ValueError, match="an objective is needed"):
        PreferenceModel(policy, reference)
    for wrong in (nn.Linear(2, 2), reference.model):
        with pytest.raises(TypeError, match=f"{type(wrong).__name__} is not a Hugging Face causal"):
            PreferenceModel(wrong, reference, zoo.dpo())


def test_activation_checkpointing(tiny, moved, batch, same_gradients):
    reference = tiny("llama")
    usual, saving = (PreferenceModel(moved(reference), reference, TDPO2).train() for _ in range(2))
    runs = []
    saving.policy.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    saving.activation_checkpointing_enable()
    loss = saving(batch).loss
    before = len(runs)
    loss.backward()
    assert len(runs) == before + 1  # the layer did run again in backward
    expected = usual(batch).loss
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    same_gradients(saving.policy, usual.policy, rtol=1e-12, atol=1e-14)


def test_evaluation_between_steps_changes_nothing(models, batch):
    scored = PreferenceModel(*models, TDPO2)
    expected = scored(batch).loss
    with torch.inference_mode():
        assert torch.equal(scored.eval()(batch).loss, expected)
    loss = scored.train()(batch).loss
    loss.backward()
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies(models, batch, duplicate):
    scored = PreferenceModel(*models, TDPO2)
    expected = scored(batch).loss
    expected.backward()
    copied = duplicate(scored)
    assert torch.equal(copied(batch).loss, expected)
    with torch.no_grad():
        copied.policy.lm_head.weight.zero_()
    assert torch.equal(scored(batch).loss, expected)
    assert not torch.equal(copied(batch).loss, expected)
