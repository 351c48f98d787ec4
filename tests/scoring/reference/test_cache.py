"""The reference cache: what it keeps is what the reference says, under what determines it and nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn

from prefopt import zoo
from prefopt.scoring import PreferenceModel, StoreError
from prefopt.scoring.reference import cache as cached
from prefopt.scoring.reference.cache import fingerprint, response_key, response_keys
from prefopt.weightings import SparseWeighting
from tests.scoring.conftest import drawn

TOKEN_MASK = zoo.sparsepo().model_copy(update={"weighting": SparseWeighting(position="token", init="near_one")})
OBJECTIVES = {"dpo": zoo.dpo(), "tdpo2": zoo.tdpo2(), "mapo": zoo.mapo(), "sparsepo": TOKEN_MASK, "wpo": zoo.wpo()}


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


def cached_model(models, objective, folder, **options):
    torch.manual_seed(0)
    return PreferenceModel(*models, objective, reference_cache=folder, **options)


def forbid_the_reference(model, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the reference was run")

    monkeypatch.setattr(model.reference_scorer, "_forward", never)


@pytest.mark.slow
@pytest.mark.parametrize("shared_prefix", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradients_are_the_same_and_the_reference_is_asked_once(
    models, batch, tmp_path, monkeypatch, name, shared_prefix
):
    torch.manual_seed(0)
    plain = PreferenceModel(*models, OBJECTIVES[name], shared_prefix=shared_prefix)
    leaves = [*plain.policy.parameters(), *plain.objective.parameters()]
    expected = plain(batch)
    gradients = torch.autograd.grad(expected.loss, leaves, allow_unused=True)
    model = cached_model(models, OBJECTIVES[name], tmp_path, shared_prefix=shared_prefix)
    model.precompute_reference(batch)
    forbid_the_reference(model, monkeypatch)
    model.cache.store.flush()
    for order in (list(range(batch.pairs)), list(reversed(range(batch.pairs)))):
        again = model(replace(batch, **{k: v[order] for k, v in batch.as_mapping().items()}))
        torch.testing.assert_close(again.losses, expected.losses[order], rtol=1e-9, atol=1e-10)
    leaves = [*model.policy.parameters(), *model.objective.parameters()]
    gradients_again = torch.autograd.grad(model(batch).loss, leaves, allow_unused=True)
    for ours, theirs in zip(gradients_again, gradients, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_another_objective_finds_what_it_needs_in_what_one_that_needed_more_left(models, batch, tmp_path, monkeypatch):
    model = cached_model(models, TOKEN_MASK, tmp_path)
    model.precompute_reference(batch)
    model.cache.store.flush()
    other = cached_model(models, zoo.tdpo1(), tmp_path)
    other.precompute_reference(replace(batch, **{k: v[:1] for k, v in batch.as_mapping().items()}))  # the check asks
    forbid_the_reference(other, monkeypatch)
    other(batch)


def test_a_response_is_known_by_its_ids_and_its_prompts():
    assert response_key([1, 2], [3]) != response_key([1], [2, 3])
    assert response_key([1, 2], [3]) != response_key([1, 2], [3, 4])
    assert response_key([1, 2], [3]) == response_key((1, 2), (3,))


def test_keys_of_a_batch_ignore_padding(batch, pairs):
    assert response_keys(batch) == [response_key(pair[0], pair[side]) for side in (1, 2) for pair in pairs]


def test_the_fingerprint_is_of_weights_configuration_and_precision(tiny, moved):
    reference = tiny("llama")
    usual = fingerprint(reference, torch.float32)
    twin = copy.deepcopy(reference)
    twin.config._name_or_path = "elsewhere"
    assert fingerprint(twin, torch.float32) == usual
    assert fingerprint(reference, torch.bfloat16) != usual
    assert fingerprint(moved(reference), torch.float32) != usual
    twin.config.rms_norm_eps *= 2
    assert fingerprint(twin, torch.float32) != usual


def test_training_an_adapter_changes_no_fingerprint(tiny):
    reference = tiny("llama")
    usual = fingerprint(reference, torch.float32)
    policy = get_peft_model(copy.deepcopy(reference), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    assert fingerprint(policy, torch.float32) == usual
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    assert fingerprint(policy, torch.float32) == usual


def test_a_reference_with_an_adapter_is_told_from_others(tiny, jolt):
    """By weights, by settings that no weight shows, and by a prompt that is beside the model."""
    base = tiny("llama")

    def fingerprints(*configs, name="default"):
        for config in configs:
            for seed in (1, 2):
                reference = get_peft_model(copy.deepcopy(base), config, adapter_name=name)
                for parameter in reference.parameters():
                    if parameter.requires_grad:
                        jolt(nn.ParameterList([parameter]), seed)
                if name == "reference":
                    reference.add_adapter("policy", config)
                    reference.set_adapter("policy")
                else:
                    reference.requires_grad_(False)
                yield fingerprint(reference, torch.float32)

    def lora(alpha):
        return LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], lora_alpha=alpha)

    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert len({fingerprint(base, torch.float32), *fingerprints(lora(8), lora(16), prompt)}) == 7
    assert len({*fingerprints(lora(8), lora(16), name="reference")}) == 4


def test_a_cache_that_says_something_else_is_refused(models, batch, tmp_path, monkeypatch):
    model = cached_model(models, zoo.tdpo2(), tmp_path)
    model.precompute_reference(batch)
    model.cache.store.flush()
    policy, _ = models
    monkeypatch.setattr(cached, "fingerprint", lambda *_: model.cache.folder.name)  # as if weights had collided
    other = cached_model((policy, copy.deepcopy(policy)), zoo.tdpo2(), tmp_path)
    with pytest.raises(StoreError, match=r"is not what it says now .*; delete the folder, or name another one"):
        other(batch)


def test_models_that_are_called_plainly_have_no_distribution_to_keep(models, batch, tmp_path):
    model = cached_model(models, zoo.tdpo2(), tmp_path)
    model._choice.uses_plain_forward = True
    with pytest.raises(ValueError, match="reference_cache: this objective needs the reference's whole distribution"):
        model(batch)
    sums = cached_model(models, zoo.dpo(), tmp_path)
    sums._choice.uses_plain_forward = True
    torch.testing.assert_close(sums(batch).loss, PreferenceModel(*models, zoo.dpo())(batch).loss)


def test_a_copy_reads_the_same_cache(models, batch, tmp_path):
    model = cached_model(models, zoo.tdpo2(), tmp_path)
    loss = model(batch).loss
    torch.testing.assert_close(copy.deepcopy(model)(batch).loss, loss)


def token_values(model, batch):
    with torch.no_grad():
        tokens, _ = model._score(model._layout(batch), batch)
    return torch.stack([values[tokens.mask].double() for values in (tokens.logps, tokens.ref_logps)])


def rounding(values, exact):
    return float((values - exact).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "tdpo2"])
def test_under_autocast_a_cache_differs_by_the_rounding_of_other_batches_alone(models, make_batch, tmp_path, name):
    """What fills the cache and what trains are batches of other shapes, whose products bfloat16 rounds in other ways.
    The cache itself rounds nothing: of the same batch it gives the same bits. Nor is one of the two nearer to float64.
    """
    pairs = drawn([(2 + n, 25 - 3 * n, 4 + n) for n in range(8)])
    whole, parts = make_batch(pairs), [make_batch(pairs[n : n + 2]) for n in range(0, 8, 2)]
    exact = token_values(PreferenceModel(*copy.deepcopy(models), OBJECTIVES[name]), whole)
    low = [model.float() for model in copy.deepcopy(models)]
    with torch.autocast("cpu", torch.bfloat16):
        plain = token_values(PreferenceModel(*low, OBJECTIVES[name]), whole)
        filled_alike = cached_model(low, OBJECTIVES[name], tmp_path / "alike")
        with torch.no_grad():
            filled_alike.precompute_reference(whole)
        assert torch.equal(token_values(filled_alike, whole), plain)
        filler = cached_model(low, OBJECTIVES[name], tmp_path / "cache", shared_prefix=False)
        with torch.no_grad():
            for part in parts:
                filler.precompute_reference(part)
        filler.cache.store.flush()
        values = token_values(cached_model(low, OBJECTIVES[name], tmp_path / "cache"), whole)
    assert torch.equal(values[0], plain[0])  # the policy's
    errors = [rounding(reference, exact[1]) for reference in (values[1], plain[1])]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)
    assert 0 < rounding(values[1], plain[1]) < min(errors)
    unit = torch.finfo(torch.bfloat16).eps * float(exact.abs().max())
    assert max(errors) < unit
