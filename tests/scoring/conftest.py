"""Tiny models built offline, and the token quantities of the papers computed one row at a time, without padding."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prefopt import PreferenceBatch
from prefopt.component import Signal
from prefopt.scoring import PreferenceModel

VOCABULARY = 64

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GATED = {"intermediate_size": 48, "num_key_value_heads": 2}

ARCHITECTURES = {
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 48},
    "llama": GATED,
    "qwen3": {**GATED, "head_dim": 8},
    # transformers' eager attention is nan in float64 on rows whose whole window is padding, hence the wide window.
    "gemma2": {**GATED, "head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 16},
    "gptj": {"rotary_dim": 4},
    "gpt_bigcode": {},
    "phi": {"intermediate_size": 48},
    "cohere": {**GATED, "logit_scale": 0.3},
    "granite": {**GATED, "logits_scaling": 3.0},
    "mistral": {**GATED, "sliding_window": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "activation_function": "gelu"},
    "falcon": {},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global"], 2]], "intermediate_size": 48},
}


def drawn(lengths, seed=0):
    """Pairs of random token ids, of these lengths of prompt, chosen and rejected."""
    draw = random.Random(seed)
    return [tuple([draw.randrange(1, VOCABULARY) for _ in range(length)] for length in pair) for pair in lengths]


@pytest.fixture
def always(monkeypatch):
    """Share a row also where prompts are so short that it saves nothing."""
    monkeypatch.setattr("prefopt.scoring.rows.limits.saves_work", lambda *_: True)


@pytest.fixture(params=[False, True], ids=["two_rows", "one_row"])
def one_row(request, monkeypatch):
    """Whether pairs share a row, whatever it would save: the test runs both ways."""
    monkeypatch.setattr("prefopt.scoring.rows.limits.saves_work", lambda *_: request.param)
    return request.param


@pytest.fixture(scope="session")
def jolt():
    """Adds noise to every parameter, of norms too: what a fresh LayerNorm gives has the same mean everywhere."""

    def change(module, seed=0, noise=0.1):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                noises = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(noise * noises.to(parameter.dtype))
        return module

    return change


@pytest.fixture(scope="session")
def tiny(jolt):
    """A causal language model of two layers: tiny("llama", seed=1, tie_word_embeddings=True)."""

    def make(name, *, seed=0, dtype=torch.float64, **changes):
        config = AutoConfig.for_model(name, **{**SHAPE, **ARCHITECTURES[name], **changes})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
        return jolt(model, seed).to(dtype)

    return make


@pytest.fixture(scope="session")
def moved(jolt):
    """A copy of a model some way off, as a policy is after some training."""

    def make(model, seed=7, noise=0.1):
        return jolt(copy.deepcopy(model).requires_grad_(True), seed, noise)

    return make


@pytest.fixture(scope="session")
def pairs():
    """Token ids of (prompt, chosen, rejected), of different lengths, one with a response of one token."""
    draw = random.Random(0)
    lengths = [(3, 6, 4), (5, 1, 7), (1, 4, 4)]
    return [tuple([draw.randrange(1, VOCABULARY) for _ in range(length)] for length in pair) for pair in lengths]


@pytest.fixture(scope="session")
def make_batch():
    def make(pairs, pad_token_id=0, **more):
        return PreferenceBatch.from_ids(*zip(*pairs, strict=True), pad_token_id=pad_token_id, **more)

    return make


@pytest.fixture(scope="session")
def batch(make_batch, pairs):
    return make_batch(pairs)


@pytest.fixture(scope="session")
def log_probs():
    """log pi(. | prompt, response so far) at each token of the response, [T, V], by a plain call of the model."""

    def compute(model, prompt, response):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)[len(prompt) - 1 : -1]

    return compute


@pytest.fixture(scope="session")
def by_hand(log_probs):
    """r_t = log pi / ref of the response's tokens, and k_t = KL(ref || pi) there, [T] each."""

    def compute(policy, reference, prompt, response):
        policy_log_probs = log_probs(policy, prompt, response)
        with torch.no_grad():
            ref_log_probs = log_probs(reference, prompt, response)
        at = torch.tensor(response)[:, None]
        ratios = (policy_log_probs.gather(-1, at) - ref_log_probs.gather(-1, at))[:, 0]
        return ratios, (ref_log_probs.exp() * (ref_log_probs - policy_log_probs)).sum(-1)

    return compute


@pytest.fixture(scope="session")
def tdpo2_by_hand(by_hand):
    """TDPO2's loss, the mean over pairs."""

    def compute(policy, reference, pairs, beta, alpha):
        losses = []
        for prompt, chosen, rejected in pairs:
            (rc, kc), (rj, kj) = (by_hand(policy, reference, prompt, response) for response in (chosen, rejected))
            z = beta * (rc.sum() - rj.sum()) - alpha * beta * (kj.sum() - kc.sum().detach())
            losses.append(-torch.nn.functional.logsigmoid(z))
        return torch.stack(losses).mean()

    return compute


@pytest.fixture(scope="session")
def same_gradients():
    """Asserts that two models have the same gradient at every parameter, and that it is not zero throughout."""

    def check(model, other, *, rtol, atol):
        gradients, others = (
            {name: p.grad for name, p in module.named_parameters() if p.grad is not None} for module in (model, other)
        )
        assert gradients.keys() == others.keys()
        assert any(bool((gradient != 0).any()) for gradient in gradients.values())
        for name, ours in gradients.items():
            torch.testing.assert_close(
                ours, others[name], rtol=rtol, atol=atol, msg=lambda text, at=name: f"{at}: {text}"
            )

    return check


@pytest.fixture
def agree_with_two_rows(always, moved, jolt, same_gradients):
    """Asserts that a step in shared rows is that in two rows a pair; returns the model whose rows are shared."""

    def check(reference, batch, objective, policy=None, **tolerance):
        policy = moved(reference) if policy is None else policy
        one, two = (
            PreferenceModel(copy.deepcopy(policy), reference, objective, shared_prefix=shared)
            for shared in (True, False)
        )
        jolt(one.objective.to(torch.float64), seed=3, noise=0.3)
        with torch.no_grad():  # a ReLU that is zero everywhere would leave nothing to compare
            for parameter in one.objective.parameters():
                parameter.abs_()
        two.objective.to(torch.float64).load_state_dict(one.objective.state_dict())
        ours, theirs = one(batch), two(batch)
        assert (one.shares_prefix, two.shares_prefix) == (True, False)
        for name in ("logps", *Signal):
            actual, expected = getattr(ours.tokens, name), getattr(theirs.tokens, name)
            assert (actual is None) == (expected is None)
            if actual is not None:
                torch.testing.assert_close(actual, expected, **tolerance, msg=lambda text, at=name: f"{at}: {text}")
        assert ours.tokens.activation_kinds == theirs.tokens.activation_kinds
        for name in ("mask", "token_ids"):
            assert torch.equal(getattr(ours.tokens, name), getattr(theirs.tokens, name))
        for name in ("losses", "weights"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **tolerance)
        ours.loss.backward()
        theirs.loss.backward()
        same_gradients(one, two, rtol=100 * tolerance["rtol"], atol=10 * tolerance["atol"])
        return one

    return check
