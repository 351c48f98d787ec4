"""A reference whose answers are all in the cache is let go, but for its head."""

from __future__ import annotations

import copy
import gc
import weakref
from functools import partial

import pytest
import torch

from prefopt import zoo
from prefopt.scoring import PreferenceModel, StoreError


@pytest.fixture
def models(tiny, moved):
    reference = tiny("gpt2")
    return moved(reference), reference


@pytest.mark.parametrize("name", ["dpo", "tdpo2", "sparsepo", "mapo"])
def test_what_is_released_is_gone_and_nothing_changes(name, models, batch, tmp_path, same_gradients):
    policy, reference = models
    objective = zoo.build({"zoo": name} | ({"weighting": {"init": "near_one"}} if name == "sparsepo" else {}))
    kept = PreferenceModel(policy, reference, objective, reference_cache=tmp_path)
    kept.precompute_reference(batch)
    kept.cache.store.flush()
    gone = copy.deepcopy(kept)
    backbone = weakref.ref(gone.reference.base_model)
    embedding = weakref.ref(gone.reference.get_input_embeddings().weight)
    gone.release_reference()
    gc.collect()
    assert backbone() is None
    assert embedding() is None
    assert not any(name.startswith("reference_scorer.model") for name, _ in gone.named_parameters())
    kept_weights = sum(p.numel() for p in gone.reference_scorer.unloaded.parameters())
    assert kept_weights == (0 if name == "dpo" else reference.lm_head.weight.numel())
    assert not any(p.requires_grad for p in gone.reference_scorer.unloaded.parameters())
    losses = [model(batch).loss for model in (kept, gone)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=0)
    for loss in losses:
        loss.backward()
    same_gradients(gone.policy, kept.policy, rtol=0, atol=0)


@pytest.mark.slow
def test_head_bias_and_softcap_stay(tiny, moved, batch, tmp_path):
    for name in ("gptj", "gemma2"):
        reference = tiny(name)
        model = PreferenceModel(moved(reference), reference, zoo.tdpo1(), reference_cache=tmp_path)
        expected = model(batch).loss
        model.release_reference()
        assert torch.equal(model(batch).loss, expected), name


def test_a_response_that_is_not_there_brings_it_back(models, batch, make_batch, pairs, tmp_path):
    policy, reference = models
    other = make_batch([(prompt, rejected, chosen[::-1]) for prompt, chosen, rejected in pairs])
    model = PreferenceModel(policy, reference, zoo.tdpo2(), reference_cache=tmp_path / "one")
    model(batch)
    model.release_reference(partial(copy.deepcopy, reference))
    expected = PreferenceModel(policy, reference, zoo.tdpo2())(other).loss
    assert model.reference is None
    torch.testing.assert_close(model(other).loss, expected)
    assert model.reference is not None
    assert not any(p.requires_grad for p in model.reference.parameters())

    model.release_reference()
    third = make_batch([(prompt, chosen[::-1], rejected[::-1]) for prompt, chosen, rejected in pairs])
    with pytest.raises(StoreError, match="the reference was released; add them before"):
        model(third)


def test_another_reference_is_not_taken_for_it(models, batch, make_batch, pairs, tmp_path):
    policy, reference = models
    model = PreferenceModel(policy, reference, zoo.dpo(), reference_cache=tmp_path)
    model(batch)
    model.release_reference(lambda: copy.deepcopy(policy))
    other = make_batch([(prompt, chosen[::-1], rejected) for prompt, chosen, rejected in pairs])
    with pytest.raises(StoreError, match="is another one than the cache was filled from"):
        model(other)


def test_there_has_to_be_something_to_release(models, batch, tmp_path):
    policy, reference = models
    with pytest.raises(ValueError, match="a cache that was filled"):
        PreferenceModel(policy, reference, zoo.dpo(), reference_cache=tmp_path).release_reference()
    model = PreferenceModel(policy, reference, zoo.dpo())
    model(batch)
    with pytest.raises(ValueError, match="a cache that was filled"):
        model.release_reference()
