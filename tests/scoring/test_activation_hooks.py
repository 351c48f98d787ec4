"""MaPO's activation sites against the models' own layers, called one after the other, without hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prefopt import zoo
from prefopt.component import Signal
from prefopt.scoring import PreferenceModel
from prefopt.scoring.forward import forward_hidden_states
from prefopt.scoring.rows.layout import Layout
from prefopt.weightings import ActivationWeighting

pytestmark = pytest.mark.usefixtures("one_row")

LAYERS, HIDDEN = 2, 32
KINDS = ("mlp", "attn", "resid", "logits")
ACTIVATIONS = frozenset({Signal.REF_ACTIVATIONS})


def gpt2(model, ids):
    """(kind, states [S, features]) of every site, in no particular order."""
    core = model.transformer
    embedded = core.wte(ids)
    yield "resid", embedded
    states = embedded + core.wpe(torch.arange(len(ids)))
    for block in core.h:
        normed = block.ln_1(states)
        for part in (normed @ block.attn.c_attn.weight + block.attn.c_attn.bias).chunk(3, dim=-1):
            yield "attn", part
        attended = block.attn(normed[None])[0][0]
        yield "attn", attended
        middle = states + attended
        normed_middle = block.ln_2(middle)
        active = block.mlp.act(normed_middle @ block.mlp.c_fc.weight + block.mlp.c_fc.bias)
        yield "mlp", active
        after = middle + active @ block.mlp.c_proj.weight + block.mlp.c_proj.bias
        for state in (states, normed, middle, normed_middle, after):
            yield "resid", state
        states = after
    states = core.ln_f(states)
    yield "resid", states
    yield "logits", model.lm_head(states)


def gpt_neox(model, ids):
    """Attention and MLP read the block's input side by side, so the residual stream has no middle."""
    core = model.gpt_neox
    states = core.embed_in(ids)
    yield "resid", states
    rotary = core.rotary_emb(states[None], torch.arange(len(ids))[None])
    for layer in core.layers:
        normed, normed_for_mlp = layer.input_layernorm(states), layer.post_attention_layernorm(states)
        heads = (layer.attention.query_key_value(normed)).view(len(ids), 4, 3, HIDDEN // 4)  # q, k, v head by head
        for part in heads.unbind(-2):
            yield "attn", part.flatten(1)
        attended = layer.attention(normed[None], attention_mask=None, position_embeddings=rotary)[0][0]
        yield "attn", attended
        active = layer.mlp.act(layer.mlp.dense_h_to_4h(normed_for_mlp))
        yield "mlp", active
        after = states + attended + layer.mlp.dense_4h_to_h(active)
        for state in (states, normed, states, normed_for_mlp, after):
            yield "resid", state
        states = after
    states = core.final_layer_norm(states)
    yield "resid", states
    yield "logits", model.lm_head(states)


def gated(model, ids):
    """Llama and, with four norms a layer and softcapped logits, Gemma 2."""
    core, four_norms = model.model, model.config.model_type == "gemma2"
    states = core.embed_tokens(ids)
    yield "resid", states
    rotary = core.rotary_emb(states[None], torch.arange(len(ids))[None])
    causal = torch.full((len(ids), len(ids)), -1e9, dtype=states.dtype).triu(1)[None, None]
    for layer in core.layers:
        attention, mlp = layer.self_attn, layer.mlp
        normed = layer.input_layernorm(states)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            yield "attn", projection(normed)
        attended = attention(normed[None], position_embeddings=rotary, attention_mask=causal)[0][0]
        yield "attn", attended
        normed_attended = layer.post_attention_layernorm(attended) if four_norms else attended
        middle = states + normed_attended
        normed_middle = (layer.pre_feedforward_layernorm if four_norms else layer.post_attention_layernorm)(middle)
        active = mlp.act_fn(mlp.gate_proj(normed_middle))
        yield "mlp", active
        fed = mlp.down_proj(active * mlp.up_proj(normed_middle))
        normed_fed = layer.post_feedforward_layernorm(fed) if four_norms else fed
        after = middle + normed_fed
        for state in (states, normed, middle, normed_middle, after):
            yield "resid", state
        if four_norms:
            yield "resid", normed_attended
            yield "resid", normed_fed
        states = after
    states = core.norm(states)
    yield "resid", states
    logits = model.lm_head(states)
    cap = model.config.final_logit_softcapping if four_norms else None
    yield "logits", logits if cap is None else cap * torch.tanh(logits / cap)


BY_HAND = {"gpt2": gpt2, "gpt_neox": gpt_neox, "llama": gated, "gemma2": gated}


def mean(states):
    return states.mean(-1)


def mean_of_absolutes(states):
    return states.abs().mean(-1)


def means_by_hand(model, prompt, response, over_features=mean):
    """Kind -> the activation of each of its sites, [sites, T]."""
    by_kind = {kind: [] for kind in KINDS}
    with torch.no_grad():
        for kind, states in BY_HAND[model.config.model_type](model, torch.tensor(prompt + response)):
            by_kind[kind].append(over_features(states)[len(prompt) - 1 : -1])
    return {kind: torch.stack(means) for kind, means in by_kind.items()}


def z_scores(row):
    return (row - row.sum() / len(row)) / (((row - row.sum() / len(row)) ** 2).sum() / (len(row) - 1)) ** 0.5


def published(row):
    """z-score, then minmax; the published formula divides 0 by 0 on one token, which weighs 1 here."""
    if len(row) == 1:
        return torch.ones(1, dtype=torch.float64)
    return (z_scores(row) - min(z_scores(row))) / (max(z_scores(row)) - min(z_scores(row)))


def logistic(row):
    """Of the z-scores; one token has none, and weighs 1/2."""
    if len(row) == 1:
        return torch.full((1,), 0.5, dtype=torch.float64)
    return 1 / (1 + torch.exp(-z_scores(row)))


REDUCTIONS = {
    "zn_rescale": (mean, published),
    "sigmoid": (mean, logistic),
    "abs_mean": (mean_of_absolutes, published),
}


def weights_by_hand(model, prompt, response, kinds, reduction="zn_rescale"):
    """A site's tokens rescaled, the mean over sites, the mean over kinds."""
    over_features, rescaled = REDUCTIONS[reduction]
    means = means_by_hand(model, prompt, response, over_features)
    return torch.stack([torch.stack([rescaled(row) for row in means[kind]]).mean(0) for kind in kinds]).mean(0)


@pytest.mark.parametrize("architecture", BY_HAND)
def test_sites_are_what_the_layers_say(tiny, moved, batch, pairs, architecture):
    reference = tiny(architecture)
    tokens = PreferenceModel(moved(reference), reference, zoo.mapo()).score(batch)
    kinds = tokens.activation_kinds
    assert tokens.ref_activations.shape == (len(kinds), 2 * len(pairs), 7)
    assert tokens.ref_activations.dtype == torch.float64
    assert not tokens.ref_activations.requires_grad
    assert bool((tokens.ref_activations[:, ~tokens.mask] == 0).all())
    for row, (prompt, response) in enumerate((pair[0], pair[side]) for side in (1, 2) for pair in pairs):
        for kind, expected in means_by_hand(reference, prompt, response).items():
            rows = [index for index, name in enumerate(kinds) if name == kind]
            heard = tokens.ref_activations[rows, row, : len(response)].sort(0).values  # the order of sites is no matter
            torch.testing.assert_close(
                heard, expected.sort(0).values, rtol=1e-5, atol=1e-6, msg=lambda text, at=kind: f"{at}: {text}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("sites", [KINDS, ("attn",), ("logits", "mlp")])
@pytest.mark.parametrize("architecture", BY_HAND)
def test_weights_are_those_by_hand(tiny, moved, batch, pairs, architecture, sites):
    reference = tiny(architecture)
    output = PreferenceModel(moved(reference), reference, zoo.mapo(sites=sites))(batch)
    for row, (prompt, response) in enumerate((pair[0], pair[side]) for side in (1, 2) for pair in pairs):
        expected = weights_by_hand(reference, prompt, response, sites)
        torch.testing.assert_close(output.weights[row, : len(response)], expected, rtol=1e-4, atol=1e-4)
    assert bool((output.weights[~output.tokens.mask] == 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma2"])
def test_every_reduction_is_the_one_by_hand(tiny, moved, batch, pairs, architecture, reduction):
    reference = tiny(architecture)
    scored = PreferenceModel(moved(reference), reference, zoo.mapo(reduction=reduction))
    weights = scored(batch).weights
    for row, (prompt, response) in enumerate((pair[0], pair[side]) for side in (1, 2) for pair in pairs):
        expected = weights_by_hand(reference, prompt, response, KINDS, reduction)
        torch.testing.assert_close(weights[row, : len(response)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_both_means_of_one_site_in_one_pass(tiny, moved, batch):
    """w of MaPO and v of absolute values, as two weightings of one objective."""
    reference = tiny("gpt2")
    term = zoo.tdpo1().divergence.model_copy(update={"weighting": ActivationWeighting(reduction="abs_mean")})
    both = PreferenceModel(moved(reference), reference, zoo.mapo().model_copy(update={"divergence": term}))(batch)
    for weights, reduction in ((both.weights, "zn_rescale"), (both.divergence_weights, "abs_mean")):
        alone = PreferenceModel(moved(reference), reference, zoo.mapo(reduction=reduction))(batch).weights
        assert torch.equal(weights, alone)
        assert not torch.equal(both.weights, both.divergence_weights)


@pytest.mark.slow
def test_plain_calls_give_the_same_logit_activations(tiny, moved, batch):
    """Where the head is no plain linear layer, the logits come from the model and not from its head."""
    reference = tiny("gemma2")
    for reduction in REDUCTIONS:
        config = zoo.mapo(sites=("logits",), reduction=reduction)
        fast, plain = (PreferenceModel(moved(reference), reference, config) for _ in range(2))
        plain._choice.uses_plain_forward = True
        torch.testing.assert_close(plain(batch).weights, fast(batch).weights, rtol=1e-5, atol=1e-5)


def test_a_reduction_of_no_such_name_is_an_error(tiny, batch):
    reference = tiny("gpt2")
    model = PreferenceModel(reference, tiny("gpt2"), zoo.mapo())
    kinds = frozenset({"mlp.abs", "mlp.median"})
    with pytest.raises(ValueError, match=r"no kind 'mlp.median'; of 'mlp' there are 'mlp', 'mlp.abs'"):
        forward_hidden_states(model.policy, Layout.two_rows(batch), signals=ACTIVATIONS, activation_kinds=kinds)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*MistralForCausalLM has layers that see only the last 4 tokens")
@pytest.mark.parametrize("architecture", ["qwen3", "gptj", "gpt_bigcode", "phi", "cohere", "granite", "mistral", "opt"])
def test_every_layer_has_sites_of_every_kind(tiny, moved, batch, pairs, architecture):
    reference = tiny(architecture)
    tokens = PreferenceModel(moved(reference), reference, zoo.mapo()).score(batch)
    prompt, response, _ = pairs[0]
    mean_logits = reference(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].mean(-1)
    torch.testing.assert_close(tokens.ref_activations[-1, 0, : len(response)], mean_logits, rtol=1e-6, atol=1e-6)
    counts = {kind: tokens.activation_kinds.count(kind) for kind in KINDS}
    assert counts["mlp"] == LAYERS
    assert counts["attn"] == 4 * LAYERS  # queries, keys, values, output
    assert counts["resid"] >= 3 * LAYERS + 2  # a block's input, norm and output; embedding and final norm
    assert counts["logits"] == 1


@pytest.mark.parametrize("multi_query", [True, False])
def test_falcons_fused_projections(tiny, batch, pairs, multi_query):
    reference = tiny("falcon", multi_query=multi_query)
    tokens = PreferenceModel(reference, tiny("falcon", multi_query=multi_query), zoo.mapo(sites=("attn",))).score(batch)
    prompt, response, _ = pairs[0]
    core, attention = reference.transformer, reference.transformer.h[0].self_attention
    with torch.no_grad():
        fused = attention.query_key_value(
            core.h[0].input_layernorm(core.word_embeddings(torch.tensor([prompt + response])))
        )
        expected = [part[0].flatten(1).mean(-1)[len(prompt) - 1 : -1] for part in attention._split_heads(fused)]
    for part in expected:
        close = torch.isclose(tokens.ref_activations[:, 0, : len(response)], part, rtol=1e-5, atol=1e-6).all(-1)
        assert int(close.sum()) == 1


def test_a_fused_projection_of_unknown_layout_is_an_error(tiny, moved, batch):
    reference = tiny("falcon", new_decoder_architecture=True, num_kv_heads=2)
    with pytest.raises(ValueError, match=r"64 features for 4 heads.*Leave 'attn' out of `sites`"):
        PreferenceModel(moved(reference), reference, zoo.mapo(sites=("attn",)))(batch)


def test_only_the_kinds_that_are_asked_for_are_collected(tiny, moved, batch):
    reference = tiny("llama")
    tokens = PreferenceModel(moved(reference), reference, zoo.mapo(sites=("mlp",))).score(batch)
    assert tokens.activation_kinds == ("mlp",) * LAYERS


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, states):
        return self.inner(states)


class Bypassed(nn.Module):
    """An MLP that has an activation module, but calls the function."""

    def __init__(self, inner):
        super().__init__()
        self.c_fc, self.act, self.c_proj = inner.c_fc, inner.act, inner.c_proj

    def forward(self, states):
        return self.c_proj(torch.relu(self.c_fc(states)))


@pytest.fixture
def replaced_mlp(tiny, moved):
    def make(kind):
        reference = tiny("gpt2")
        for block in reference.transformer.h:
            block.mlp = kind(block.mlp)
        return PreferenceModel(moved(reference), reference, zoo.mapo())

    return make


def test_a_kind_that_matches_no_module_is_an_error_that_lists_the_modules(replaced_mlp, batch):
    with pytest.raises(
        ValueError, match=r"no module of GPT2Model is known to be of kind 'mlp'.*h\.\*\.mlp\.inner\.act"
    ):
        replaced_mlp(Wrapped)(batch)


def test_a_site_that_never_runs_is_an_error(replaced_mlp, batch):
    with pytest.raises(RuntimeError, match=r"2 of 18 modules never ran.*h\.0\.mlp\.act.*Name other kinds in `sites`"):
        replaced_mlp(Bypassed)(batch)


@pytest.mark.parametrize("kind", [None, Wrapped, Bypassed])
def test_no_hook_stays_behind(tiny, moved, batch, replaced_mlp, kind):
    if kind is None:
        reference = tiny("gpt2")
        scored = PreferenceModel(moved(reference), reference, zoo.mapo())
        scored(batch)
    else:
        scored = replaced_mlp(kind)
        with pytest.raises((RuntimeError, ValueError)):
            scored(batch)
    for module in scored.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
