"""Models whose head cannot be applied on its own: a warning says so once, and the numbers stay right."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.probes import probe_batch, usable_token_ids

BETA, ALPHA = 0.4, 0.7
OBJECTIVES = (zoo.dpo(), zoo.simpo(), zoo.tdpo2(), zoo.sparsepo(), zoo.mapo())


class Cooled(LlamaForCausalLM):
    """Does something to its logits that no configuration tells of."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits / 2
        return output


class OwnLinear(nn.Linear):
    """Might do anything in its forward; in fact it does what nn.Linear does."""


def cooled(model):
    model.__class__ = Cooled
    return model


def with_own_head(model):
    model.lm_head.__class__ = OwnLinear
    return model


def nats(message):
    """The size of the difference that a warning tells."""
    return float(message.split("by up to ")[1].split(" nats")[0])


@pytest.mark.parametrize("role", ["policy", "reference"])
def test_a_model_that_changes_its_logits(tiny, moved, batch, pairs, tdpo2_by_hand, role):
    reference = tiny("llama")
    policy = moved(reference)
    made_up = probe_batch(usable_token_ids([policy]), longest=12, widest=23, seed=1)  # the second draw
    before = PreferenceModel(policy, reference, zoo.tdpo2(BETA, ALPHA)).score(made_up)
    cooled(policy if role == "policy" else reference)
    scored = PreferenceModel(policy, reference, zoo.tdpo2(BETA, ALPHA))
    with pytest.warns(UserWarning, match=rf"{role}: log-probabilities from Cooled's .* plainly from now on") as caught:
        output = scored(batch)
    assert scored.uses_plain_forward
    assert len(caught) == 1
    after = scored.score(made_up)
    change = (before.logps - after.logps) + (before.ref_logps - after.ref_logps)
    assert nats(str(caught[0].message)) == pytest.approx(change.abs().max().item(), rel=0.05)
    torch.testing.assert_close(output.loss, tdpo2_by_hand(policy, reference, pairs, BETA, ALPHA))
    scored(batch)  # a second warning would be an error


def test_gradients_of_a_plain_call(tiny, moved, batch, pairs, tdpo2_by_hand, same_gradients):
    reference = cooled(tiny("llama"))
    policy, other = moved(reference), moved(reference)
    with pytest.warns(UserWarning, match="policy: log-probabilities"):
        PreferenceModel(policy, reference, zoo.tdpo2(BETA, ALPHA))(batch).loss.backward()
    tdpo2_by_hand(other, reference, pairs, BETA, ALPHA).backward()
    same_gradients(policy, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.weighting.name)
def test_the_plain_call_says_what_the_gathered_head_says(tiny, moved, jolt, batch, same_gradients, objective):
    reference = tiny("gemma2")
    fast, plain = (PreferenceModel(moved(reference), reference, objective) for _ in range(2))
    jolt(fast.objective.to(torch.float64), noise=0.3)
    plain.objective.to(torch.float64).load_state_dict(fast.objective.state_dict())
    with_own_head(plain.policy)
    with pytest.warns(UserWarning, match=r"policy: the head of Gemma2ForCausalLM is a .*OwnLinear, not a plain"):
        ours = plain(batch)
    theirs = fast(batch)
    assert (plain.uses_plain_forward, fast.uses_plain_forward) == (True, False)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-6, atol=1e-6)
    ours.loss.backward()
    theirs.loss.backward()
    same_gradients(plain, fast, rtol=1e-4, atol=1e-6)


def test_a_reference_with_a_head_of_its_own(tiny, moved, batch):
    reference = with_own_head(tiny("llama"))
    policy = moved(reference)
    policy.lm_head.__class__ = nn.Linear
    with pytest.warns(UserWarning, match="reference: the head of LlamaForCausalLM is a .*OwnLinear"):
        PreferenceModel(policy, reference, zoo.dpo())(batch)
    # Without a reference to run there is nothing to fall back from.
    scored = PreferenceModel(policy, reference, zoo.simpo())
    scored(batch)
    assert not scored.uses_plain_forward


def test_lora_on_the_head(tiny, jolt, batch, pairs, tdpo2_by_hand):
    policy = get_peft_model(tiny("llama"), LoraConfig(r=4, target_modules=["q_proj", "lm_head"])).double()
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    scored = PreferenceModel(policy, None, zoo.tdpo2(BETA, ALPHA))
    with pytest.warns(UserWarning, match=r"policy: the head of LlamaForCausalLM is a peft\..*Linear, not a plain"):
        output = scored(batch)
    assert scored.uses_plain_forward
    torch.testing.assert_close(output.loss, tdpo2_by_hand(policy, tiny("llama"), pairs, BETA, ALPHA))
    output.loss.backward()
    for name, parameter in policy.named_parameters():
        assert (parameter.grad is not None and bool((parameter.grad != 0).any())) == ("lora" in name), name


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_adapters_that_put_tokens_before_the_prompt(tiny, batch, pairs, log_probs, config):
    """The backbone alone knows nothing of such tokens, and prompt tuning returns logits for them too."""
    policy = get_peft_model(tiny("llama"), config(task_type="CAUSAL_LM", num_virtual_tokens=3)).double()
    scored = PreferenceModel(policy, None, zoo.tdpo2(BETA, ALPHA))
    with pytest.warns(UserWarning, match="policy: its adapter acts before the first token"):
        output = scored(batch)
    base = tiny("llama")
    responses = [(pair[0], pair[side]) for side in (1, 2) for pair in pairs]
    virtual = 3 if config is PromptTuningConfig else 0
    for row, (prompt, response) in enumerate(responses):
        labels = torch.tensor(response)[:, None]
        logits = policy(input_ids=torch.tensor([prompt + response])).logits[0]
        assert len(logits) == virtual + len(prompt) + len(response)
        ours = logits.log_softmax(-1)[-len(response) - 1 : -1].gather(-1, labels)[:, 0]
        theirs = log_probs(base, prompt, response).gather(-1, labels)[:, 0]
        torch.testing.assert_close(output.tokens.logps[row, : len(response)], ours, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(output.tokens.ref_logps[row, : len(response)], theirs, rtol=1e-6, atol=1e-6)
    output.loss.backward()
    trained = [parameter.grad for parameter in policy.parameters() if parameter.requires_grad]
    assert trained
    assert all(bool((gradient != 0).any()) for gradient in trained)


def test_half_precision_alone_is_no_disagreement(tiny, moved, batch):
    """Its rounding is larger than what float32 may differ by, and must not cost the fast path."""
    reference = tiny("llama", dtype=torch.float32)
    scored = PreferenceModel(moved(reference), reference, zoo.tdpo2())
    with warnings.catch_warnings(), torch.autocast("cpu", dtype=torch.bfloat16):
        warnings.simplefilter("error")
        scored(batch)
    assert not scored.uses_plain_forward
