"""PreferenceModel against a few plain lines: one response at a time, no padding, `model(...).logits` and sums.

A fallback to the plain model call would be a warning, and a warning is an error here.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from prefopt import zoo
from prefopt.component import Signal
from prefopt.scoring import PreferenceModel
from prefopt.weightings import SparseWeighting

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_row")]

ALL = ("gpt2", "gpt_neox", "llama", "qwen3", "gemma2", "gptj", "gpt_bigcode")
OTHER_HEADS = ("phi", "cohere", "granite", "mistral", "opt", "falcon")
short_window = pytest.mark.filterwarnings("ignore:.*MistralForCausalLM has layers that see only the last 4 tokens")
BETA, ALPHA, GAMMA, L1_REWARD, L1_DIVERGENCE = 0.4, 0.7, 0.3, 0.02, 0.05

# Norms and softmax of most architectures run in float32 even in a float64 model, where the last bit of an input may
# round either way.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def mask_by_hand(mask, model, prompt, response):
    """SparsePO's mask, written out from the paper."""
    states = model(input_ids=torch.tensor([prompt + response]), output_hidden_states=True).hidden_states[1:]
    total = 0
    for layer, state in enumerate(states):
        normed = F.layer_norm(state[0, len(prompt) - 1 : -1], (32,), mask.norm.weight, mask.norm.bias)
        total = total + mask.mixer[layer] * torch.relu(normed @ mask.weight[layer] + mask.bias[layer])
    return torch.relu(total)


def objective_by_hand(name, scored, pairs, by_hand, log_probs, weights):
    """The mean loss over pairs, from the formula of its paper."""
    losses = []
    policy, reference = scored.policy, scored.reference
    for index, (prompt, *responses) in enumerate(pairs):
        if name == "simpo":
            chosen, rejected = (
                log_probs(policy, prompt, response).gather(-1, torch.tensor(response)[:, None]).mean()
                for response in responses
            )
            losses.append(-F.logsigmoid(BETA * (chosen - rejected) - GAMMA))
            continue
        (rc, kc), (rj, kj) = (by_hand(policy, reference, prompt, response) for response in responses)
        penalty = 0
        if name == "dpo":
            z = BETA * (rc.sum() - rj.sum())
        elif name == "tdpo2":
            z = BETA * (rc.sum() - rj.sum()) - ALPHA * BETA * (kj.sum() - kc.sum().detach())
        elif name == "mapo":
            wc, wj = weights[index], weights[index + len(pairs)]
            wc, wj = wc[: len(rc)], wj[: len(rj)]
            z = BETA * ((wc * rc).sum() - (wj * rj).sum()) - BETA * ((wj * kj).sum() - (wc * kc).sum())
        else:
            masks = (scored.objective.weighting, scored.objective.divergence_weighting or scored.objective.weighting)
            (uc, dc), (uj, dj) = (
                [mask_by_hand(m, reference, prompt, response) for m in masks] for response in responses
            )
            z = BETA * ((uc * rc).sum() - (uj * rj).sum()) - BETA * ((dj * kj).sum() - (dc * kc).sum())
            penalty = L1_REWARD * (uc.sum() + uj.sum()) + L1_DIVERGENCE * (dc.sum() + dj.sum())
            penalty = penalty / 2 if name == "sparsepo" else penalty
        losses.append(-F.logsigmoid(z) + penalty)
    return torch.stack(losses).mean()


OBJECTIVES = {
    "dpo": zoo.dpo(BETA),
    "tdpo2": zoo.tdpo2(BETA, ALPHA),
    "mapo": zoo.mapo(BETA),
    "sparsepo": zoo.sparsepo(BETA, True, L1_REWARD, L1_DIVERGENCE),
    "sparsepo_independent": zoo.sparsepo(BETA, False, L1_REWARD, L1_DIVERGENCE),
    "simpo": zoo.simpo(BETA, GAMMA),
}


@pytest.fixture
def agree(moved, jolt, batch, pairs, by_hand, log_probs):
    """Asserts that loss and gradients of an objective are those by hand."""

    def check(name, reference, policy=None, **tolerance):
        policy = moved(reference) if policy is None else policy
        scored = PreferenceModel(policy, None if name == "simpo" else reference, OBJECTIVES[name])
        jolt(scored.objective.to(torch.float64), seed=3, noise=0.3)
        output = scored(batch)
        output.loss.backward()
        gradients = {parameter: parameter.grad for parameter in scored.parameters()}
        scored.zero_grad()
        loss = objective_by_hand(name, scored, pairs, by_hand, log_probs, output.weights)
        loss.backward()
        assert not scored.uses_plain_forward
        torch.testing.assert_close(output.loss, loss, **tolerance or CLOSE)
        assert abs(loss.item() - torch.log(torch.tensor(2.0)).item()) > 1e-3
        largest = max(gradient.abs().max() for gradient in gradients.values() if gradient is not None)
        for parameter_name, parameter in scored.named_parameters():
            ours = gradients[parameter] if gradients[parameter] is not None else torch.zeros_like(parameter)
            theirs = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            if not parameter_name.startswith("reference"):
                assert bool((theirs != 0).any()), parameter_name
            torch.testing.assert_close(
                ours, theirs, rtol=1e-4, atol=1e-5 * largest, msg=lambda text, at=parameter_name: f"{at}: {text}"
            )

    return check


@pytest.mark.one_in(5)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("architecture", ALL)
def test_loss_and_gradients_are_those_by_hand(tiny, agree, architecture, objective):
    agree(objective, tiny(architecture))


@short_window
@pytest.mark.parametrize("objective", ["tdpo2", "mapo"])
@pytest.mark.parametrize("architecture", OTHER_HEADS)
def test_other_heads_and_attentions(tiny, agree, architecture, objective):
    agree(objective, tiny(architecture))


@short_window
@pytest.mark.one_in(3)
@pytest.mark.parametrize("architecture", [*ALL, *OTHER_HEADS])
def test_tied_and_untied_embeddings(tiny, agree, architecture):
    untied_only = ("gptj", "phi")  # their heads have a bias, and transformers does not tie those
    for tied in (True, False):
        model = tiny(architecture, tie_word_embeddings=tied)
        is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert is_tied == tied or architecture in untied_only
        agree("tdpo2", model)


def test_a_head_with_a_bias_is_tested(tiny):
    for architecture in ("gptj", "phi"):
        assert tiny(architecture).get_output_embeddings().bias is not None
    assert tiny("gpt2").get_output_embeddings().bias is None


def test_a_reference_of_another_architecture(tiny, agree):
    for objective in ("tdpo2", "sparsepo", "mapo"):
        agree(objective, tiny("gemma2"), policy=tiny("gptj", seed=5))


def test_a_reference_of_another_size(tiny, agree):
    """Masks read the reference's states, so it is the reference that says how many layers and features there are."""
    for objective in ("tdpo2", "sparsepo", "mapo"):
        agree(objective, tiny("llama", num_hidden_layers=3), policy=tiny("llama", hidden_size=16, seed=5))


@pytest.mark.parametrize("architecture", ALL)
def test_half_precision(tiny, moved, batch, architecture):
    reference = tiny(architecture, dtype=torch.float32)
    policy = moved(reference)
    expected = PreferenceModel(policy, reference, zoo.tdpo2(BETA, ALPHA))(batch).loss
    scored = PreferenceModel(policy.bfloat16(), reference.bfloat16(), zoo.tdpo2(BETA, ALPHA))
    output = scored(batch)
    assert not scored.uses_plain_forward
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, expected, rtol=0.05, atol=0.05)
    output.loss.backward()
    assert {parameter.grad.dtype for parameter in policy.parameters() if parameter.grad is not None} == {torch.bfloat16}


@pytest.mark.parametrize("architecture", ALL)
def test_hidden_states_are_the_references_own(tiny, moved, batch, pairs, architecture):
    """At the position that predicts each token or at its own, of layers 1..L; or what layer 1 is given there."""
    reference = tiny(architecture)
    responses = [(pair[0], pair[side]) for side in (1, 2) for pair in pairs]
    for position, layers in {"predicting": slice(1, 3), "token": slice(1, 3), "embedding": slice(1)}.items():
        objective = zoo.dpo().model_copy(update={"weighting": SparseWeighting(position=position)})
        tokens = PreferenceModel(moved(reference), reference, objective).score(batch)
        fields = {"predicting": tokens.ref_hidden_states, "token": tokens.ref_token_states}
        fields["embedding"] = tokens.ref_embeddings
        states = fields.pop(position)
        assert set(fields.values()) == {None}
        assert states.shape == (len(range(3)[layers]), 2 * len(pairs), 7, 32)
        assert not states.requires_grad
        assert bool((states[:, ~tokens.mask] == 0).all())
        for row, (prompt, response) in enumerate(responses):
            plain = reference(input_ids=torch.tensor([prompt + response]), output_hidden_states=True)
            start = len(prompt) - (position == "predicting")
            expected = torch.stack(plain.hidden_states[layers])[:, 0, start : start + len(response)]
            torch.testing.assert_close(states[:, row, : len(response)], expected.detach(), rtol=1e-6, atol=1e-6)


def test_signals_are_collected_only_where_they_are_required(tiny, moved, batch):
    reference = tiny("llama")
    required = {
        "dpo": set(),
        "simpo": set(),
        "tdpo2": {"divergence"},
        "sparsepo": {"divergence", "ref_hidden_states"},
        "mapo": {"divergence", "ref_activations"},
    }
    for name, expected in required.items():
        tokens = PreferenceModel(moved(reference), reference, OBJECTIVES[name]).score(batch)
        # The reference's log-probabilities come with every pass, as zeros where there is none.
        assert {signal for signal in Signal if getattr(tokens, signal) is not None} == expected | {"ref_logps"}
        assert bool(tokens.activation_kinds) == (name == "mapo")
