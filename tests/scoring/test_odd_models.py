"""Models without attention, with a backbone of another name, several streams, or modules that run more than once."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.forward import forward_hidden_states
from prefopt.scoring.rows.layout import Layout
from prefopt.signals import Signal
from tests.scoring.conftest import GATED, SHAPE

HEADS = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8, "chunk_size": 4}
EXPERTS = {"num_local_experts": 2, "intermediate_size": 16, "intermediate_size_mlp": 48, "head_dim": 8}
STREAMS = {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8}
STREAMS |= {"layer_types": ["full_attention"] * 2, "activation_sparsity_pattern": None, "laurel_rank": 4, "head_dim": 8}
LATENT = {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 16}
LATENT |= {"zero_expert_num": 2, "n_routed_experts": 4, "moe_topk": 2, "expert_ffn_hidden_size": 16}
MODELS = {
    "mamba": {"state_size": 4},
    "mamba2": HEADS,
    "falcon_mamba": {"state_size": 4},
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {"num_heads": 4, "use_cache": False, "autocast_kernel_dtype": "float32"},
    "llama4_text": GATED | EXPERTS,
    "mpt": {"logit_scale": "inv_sqrt_d_model"},
    "gemma3n_text": GATED | STREAMS,
    "longcat_flash": LATENT | {"ffn_hidden_size": 48, "head_dim": 4},
    "openai-gpt": {},
    "nanochat": GATED,
}


def odd(name):
    config = AutoConfig.for_model(name, **{**SHAPE, **MODELS[name]})
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm", "llama4_text", "mpt"])
def test_log_probabilities_are_those_of_single_calls(jolt, make_batch, pairs, log_probs, name):
    reference = jolt(odd(name))
    policy = jolt(odd(name), seed=1)
    tokens = PreferenceModel(policy, reference, zoo.tdpo2(), shared_prefix=False).score(make_batch(pairs))
    responses = [(prompt, sides[side]) for side in (0, 1) for prompt, *sides in pairs]
    for row, (prompt, response) in enumerate(responses):
        for model, logps in ((policy, tokens.logps), (reference, tokens.ref_logps)):
            single = log_probs(model, prompt, response).gather(-1, torch.tensor(response)[:, None])[:, 0]
            torch.testing.assert_close(logps[row, : len(response)], single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gemma3n_text", "longcat_flash"])
def test_states_that_are_not_those_of_layers_are_refused(make_batch, pairs, name):
    model = PreferenceModel(odd(name), odd(name), zoo.sparsepo(), shared_prefix=False)
    with pytest.raises(
        ValueError, match=r"no mask over layers can read .* gives \d of shape .*; take an objective that"
    ):
        model(make_batch(pairs))


def test_a_model_that_is_not_one_stack_of_layers_is_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    parts = {f"{part}_config": sizes for part in ("patcher", "encoder", "decoder", "global")}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("blt", **parts))
    with pytest.raises(
        TypeError, match="BltForCausalLM: its configuration has no num_hidden_layers and no hidden_size"
    ):
        PreferenceModel(model, model, zoo.dpo())


def activations(model, batch, kind):
    """The kinds and values [S, N, T] of the sites, without a mask."""
    layout, kinds = Layout.two_rows(batch), frozenset({kind})
    states = forward_hidden_states(
        model, layout, signals=frozenset({Signal.REF_ACTIVATIONS}), activation_kinds=kinds, plain_forward=True
    )
    return layout, states.signals[Signal.REF_ACTIVATIONS]


def test_streams_before_the_rows_are_refused(make_batch, pairs):
    with pytest.raises(
        ValueError, match=r"'layers.0 \(input\)' has states of shape \[4, 6, .*leave 'resid' out of `sites`"
    ):
        activations(odd("gemma3n_text"), make_batch(pairs), "resid")


@pytest.mark.parametrize(
    ("name", "kind", "module"), [("openai-gpt", "mlp", "transformer.h.1.mlp.act"), ("nanochat", "resid", "model.norm")]
)
def test_every_call_of_a_module_that_runs_twice_is_a_site(make_batch, pairs, name, kind, module):
    model, calls = odd(name), []
    layout, sites = activations(model, make_batch(pairs), kind)
    model.get_submodule(module).register_forward_hook(lambda _, __, output: calls.append(output.mean(-1)))
    with torch.no_grad():
        model(layout.input_ids, attention_mask=layout.attention_mask)
    assert len(calls) == 2
    for call in calls:
        expected = layout.scatter(layout.gather(call, layout.query_positions))
        assert any(torch.allclose(site, expected, atol=1e-6) for site in sites)
    assert len(sites) == 2 or name == "nanochat"
