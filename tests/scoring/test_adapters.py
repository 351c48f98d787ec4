"""A policy with a PEFT adapter is its own reference, with the adapter off."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.lm_head.head import HeadGradient

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_row")]

OBJECTIVES = (zoo.dpo(), zoo.tdpo2(), zoo.mapo(), zoo.sparsepo(), zoo.simpo())


@pytest.fixture
def adapted(tiny):
    """A policy with LoRA of some effect, dropout included, and a model equal to its base."""

    def make(architecture="llama", noise=0.2, **changes):
        base = tiny(architecture)
        modules = {"gpt_neox": ["query_key_value", "dense_4h_to_h"]}.get(architecture, ["q_proj", "down_proj"])
        config = LoraConfig(r=4, target_modules=modules, lora_dropout=0.3, **changes)
        policy = get_peft_model(copy.deepcopy(base), config).double()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
        return policy, base

    return make


@pytest.mark.one_in(3)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=["dpo", "tdpo2", "mapo", "sparsepo", "simpo"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma2"])
def test_its_base_is_the_reference(adapted, jolt, batch, same_gradients, architecture, objective):
    policy, base = adapted(architecture)
    implicit = PreferenceModel(policy, None, objective).train()
    explicit = PreferenceModel(copy.deepcopy(policy), base, objective).train()
    jolt(implicit.objective.to(torch.float64), noise=0.3)
    explicit.objective.to(torch.float64).load_state_dict(implicit.objective.state_dict())
    output, expected = implicit(batch), explicit(batch)
    assert not implicit.uses_plain_forward
    torch.testing.assert_close(output.losses, expected.losses, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(output.weights, expected.weights, rtol=1e-9, atol=1e-12)
    if not objective.reference_free:
        assert not torch.allclose(output.tokens.logps, output.tokens.ref_logps)
    output.loss.backward()
    expected.loss.backward()
    same_gradients(implicit.policy, explicit.policy, rtol=1e-8, atol=1e-11)
    same_names = [name for name, parameter in implicit.policy.named_parameters() if parameter.grad is not None]
    assert same_names
    assert all("lora" in name for name in same_names)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("cached", [False, True], ids=["no cache", "cache"])
@pytest.mark.parametrize("objective", OBJECTIVES[:4], ids=["dpo", "tdpo2", "mapo", "sparsepo"])
def test_a_frozen_adapter_is_the_reference(adapted, jolt, batch, same_gradients, tmp_path, objective, cached):
    policy, _ = adapted()
    frozen = copy.deepcopy(policy)
    policy.add_adapter("reference", LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    set_peft_model_state_dict(policy, get_peft_model_state_dict(frozen), adapter_name="reference")
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".reference." in name:
                parameter.data = parameter.data.double()
            elif parameter.requires_grad:
                parameter.add_(0.1)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    bare = copy.deepcopy(policy)
    bare.delete_adapter("reference")
    folder = tmp_path if cached else None
    implicit = PreferenceModel(policy, None, objective, reference_cache=folder).train()
    explicit = PreferenceModel(bare, frozen, objective).train()
    jolt(implicit.objective.to(torch.float64), noise=0.3)
    explicit.objective.to(torch.float64).load_state_dict(implicit.objective.state_dict())
    for _ in range(2):
        output, expected = implicit(batch), explicit(batch)
        torch.testing.assert_close(output.losses, expected.losses, rtol=1e-6 if cached else 1e-9, atol=1e-9)
    output.loss.backward()
    expected.loss.backward()
    assert trained == {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    same_gradients(policy, bare, rtol=1e-5 if cached else 1e-8, atol=1e-9)


def test_an_untrained_adapter_starts_at_ln_2(adapted, batch):
    policy, _ = adapted(noise=0.0)
    output = PreferenceModel(policy.float(), None, zoo.tdpo1()).train()(batch)
    assert torch.equal(output.losses, -torch.nn.functional.logsigmoid(torch.zeros(batch.pairs)))


def test_the_adapter_is_on_again_after_a_step(adapted, batch):
    policy, base = adapted()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    expected = policy.eval()(batch.chosen_ids).logits
    scored = PreferenceModel(policy, None, zoo.tdpo2())
    scored(batch)
    torch.testing.assert_close(policy(batch.chosen_ids).logits, expected)
    assert not torch.allclose(policy(batch.chosen_ids).logits, base(batch.chosen_ids).logits)
    assert all(parameter.requires_grad for parameter in trained)


def test_an_explicit_reference_wins(adapted, moved, batch):
    policy, base = adapted()
    other = moved(base)
    ours = PreferenceModel(policy, other, zoo.dpo()).score(batch)
    theirs = PreferenceModel(moved(base, seed=9), other, zoo.dpo()).score(batch)
    torch.testing.assert_close(ours.ref_logps, theirs.ref_logps)


def test_a_head_that_is_trained_whole(adapted, batch, same_gradients):
    """peft puts a copy of the head into a wrapper, which is no plain nn.Linear."""
    policy, base = adapted(modules_to_save=["lm_head"])
    implicit, explicit = (
        PreferenceModel(policy, None, zoo.tdpo2()),
        PreferenceModel(copy.deepcopy(policy), base, zoo.tdpo2()),
    )
    for scored in (implicit, explicit):
        with pytest.warns(UserWarning, match="policy: the head of LlamaForCausalLM is a .*ModulesToSaveWrapper"):
            scored(batch).loss.backward()
    same_gradients(implicit.policy, explicit.policy, rtol=1e-8, atol=1e-11)
    assert any(
        "lm_head" in name and parameter.grad is not None for name, parameter in implicit.policy.named_parameters()
    )


def test_the_frozen_head_costs_no_gradient(adapted, batch, monkeypatch):
    """The gradient of a head is [V, H]; under LoRA nobody asks for it."""
    asked = []
    monkeypatch.setattr(HeadGradient, "add", lambda gradient, *_: asked.append((gradient.weight, gradient.bias)))
    policy, _ = adapted()
    scored = PreferenceModel(policy, None, zoo.tdpo2())
    scored(batch).loss.backward()
    head = policy.get_base_model().get_output_embeddings().weight
    assert set(asked) == {(None, None)}
    assert not head.requires_grad
    assert head.grad is None


def test_activation_checkpointing(adapted, batch, same_gradients):
    policy, _ = adapted()
    usual, saving = (
        PreferenceModel(policy, None, zoo.tdpo2()),
        PreferenceModel(copy.deepcopy(policy), None, zoo.tdpo2()),
    )
    saving.activation_checkpointing_enable()
    for scored in (usual, saving):
        scored.train()(batch).loss.backward()
    same_gradients(saving.policy, usual.policy, rtol=1e-9, atol=1e-12)
