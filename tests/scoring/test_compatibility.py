"""What a policy and its reference have to be: of like ids, causal, and without noise."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from prefopt import PreferenceBatch, zoo
from prefopt.divergences import ForwardKL
from prefopt.objective_config import DivergenceTerm
from prefopt.scoring import Head, PreferenceModel, dense_statistics, token_statistics
from prefopt.scoring.compatibility import ModelLimits, Role, draws_in_training, vocabulary
from prefopt.scoring.forward import causal_lm
from tests.scoring.conftest import SHAPE

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24, "num_key_value_heads": 2}
PAIR = [([1, 2, 3], [4, 5, 6, 7], [8, 9])]


def model(name, *, seed=0, **changes):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **{**SHAPE, **changes})
    return AutoModelForCausalLM.from_config(config)


def resized(lm, token_ids):
    lm = copy.deepcopy(lm)
    lm.resize_token_embeddings(token_ids)
    return lm


@pytest.mark.filterwarnings("ignore:The new")
@pytest.mark.parametrize("budget", [2**28, 0])
@pytest.mark.parametrize("token_ids", [40, 65, 70, 128])
def test_log_probabilities_are_over_a_models_own_vocabulary(make_batch, log_probs, token_ids, budget):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    reference = LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, **shape))
    policy = resized(reference, token_ids)
    output = PreferenceModel(policy, reference, zoo.dpo(), logits_budget=budget)(make_batch(PAIR))
    assert output.tokens.ref_logps[0].sum().item() == pytest.approx(-16.275528, abs=1e-4)
    sums = {}
    for lm, actual in ((policy, output.tokens.logps), (reference, output.tokens.ref_logps)):
        for row, response in enumerate(PAIR[0][1:]):
            expected = log_probs(lm, PAIR[0][0], response).gather(-1, torch.tensor(response)[:, None])[:, 0]
            torch.testing.assert_close(actual[row, : len(response)], expected, rtol=1e-5, atol=1e-5)
            sums[lm, row] = expected.sum()
    chosen, rejected = (sums[policy, row] - sums[reference, row] for row in range(2))
    torch.testing.assert_close(output.loss, -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)))


def test_a_divergence_between_unlike_vocabularies_is_refused(tiny):
    reference = tiny("llama")
    for objective in (zoo.tdpo2(), zoo.dpo().model_copy(update={"divergence": DivergenceTerm(measure=ForwardKL())})):
        with pytest.raises(ValueError, match="the policy has 65 token ids and the reference 64: resize both"):
            PreferenceModel(tiny("llama", vocab_size=65), reference, objective)
    hidden, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    heads = [Head(torch.randn(size, 4)) for size in (6, 5)]
    with pytest.raises(ValueError, match="6 token ids and the reference 5"):
        token_statistics(hidden, heads[0], hidden, heads[1], labels, ForwardKL())
    with pytest.raises(ValueError, match="6 token ids and the reference 5"):
        dense_statistics(torch.randn(3, 6), torch.randn(3, 5), labels, ForwardKL())


def test_a_label_outside_of_a_head_is_an_error():
    hidden, head = torch.randn(2, 4), Head(torch.randn(6, 4))
    with pytest.raises(IndexError, match="labels are 3 to 6; the head has token ids 0 to 5"):
        token_statistics(hidden, head, None, None, torch.tensor([6, 3]))


def test_ids_outside_of_a_vocabulary(tiny, make_batch):
    scored = PreferenceModel(tiny("llama"), tiny("llama", vocab_size=80, seed=1), zoo.dpo())
    scored(make_batch(PAIR))
    with pytest.raises(
        ValueError, match=r"pair 1 has token id 64, but the policy \(LlamaForCausalLM\) has the ids 0 to 63"
    ):
        scored(make_batch([*PAIR, ([1], [64], [2])]))


POSITIONS = {
    "gpt2": {"max_position_embeddings": 16},
    "opt": {"max_position_embeddings": 16, "ffn_dim": 16, "word_embed_proj_dim": 32},
    "codegen": {"max_position_embeddings": 16, "rotary_dim": 4},
    "ctrl": {"max_position_embeddings": 16, "dff": 16},
    "roberta": {"max_position_embeddings": 17, "is_decoder": True, "intermediate_size": 16},
    "biogpt": {"max_position_embeddings": 16, "intermediate_size": 16},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", POSITIONS)
def test_rows_longer_than_the_table_of_positions(architecture, make_batch):
    reference = model(architecture, **POSITIONS[architecture])
    scored = PreferenceModel(copy.deepcopy(reference), reference, zoo.dpo())
    assert scored(make_batch([([1] * 12, [2] * 4, [3])])).loss.item() == pytest.approx(0.6931472)
    with pytest.raises(
        ValueError, match=r"pair 0 has 17 tokens with its prompt, but the policy .* table of 16 positions"
    ):
        scored(make_batch([([1] * 12, [2] * 5, [3])]))


def test_ids_below_zero(tiny):
    batch = PreferenceBatch.from_ids([[1, 2], [1]], [[3], [4]], [[5], [6, 7, 8]], pad_token_id=0)
    batch.chosen_ids[0, 0] = -100
    with pytest.raises(ValueError, match=r"pair 0 has token id -100, and ids are not negative"):
        PreferenceModel(tiny("llama"), tiny("llama"), zoo.dpo())(batch)


def test_the_vocabulary_under_an_adapter_that_keeps_weights_tied(tiny):
    config = LoraConfig(
        target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True, task_type="CAUSAL_LM"
    )
    lm = tiny("llama", tie_word_embeddings=True)
    assert vocabulary(get_peft_model(lm, config).get_base_model()) == lm.config.vocab_size != lm.config.hidden_size


def test_rotary_embeddings_have_no_table(tiny):
    assert ModelLimits.from_model("policy", tiny("llama")).positions is None


def test_encoder_decoders_are_refused(tiny):
    shape = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    encoder_decoder = T5ForConditionalGeneration(T5Config(vocab_size=64, **shape))
    for models in ((encoder_decoder, tiny("llama")), (tiny("llama"), encoder_decoder)):
        with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
            PreferenceModel(*models, zoo.dpo())


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_looks_ahead_is_refused(tiny, make_batch, jolt):
    shape = {"intermediate_size": 16}
    looks_ahead, decoder = (jolt(model("bert", is_decoder=decoder, **shape)) for decoder in (False, True))
    PreferenceModel(copy.deepcopy(decoder), decoder, zoo.dpo())(make_batch(PAIR))
    batch = make_batch([([1, 2], [3], [4])])  # a single token after the prompt is enough
    for models, role in (((looks_ahead, decoder), "policy"), ((decoder, looks_ahead), "reference")):
        with pytest.raises(ValueError, match=rf"the {role} \(BertLMHeadModel\) is not causal"):
            PreferenceModel(*models, zoo.dpo())(batch)


NOISE = {
    "phimoe": {},
    "mixtral": {"router_jitter_noise": 0.1},
}


@pytest.mark.parametrize("architecture", NOISE)
def test_routers_that_draw_are_kept_in_evaluation_mode(architecture, make_batch, jolt, caplog):
    policy = jolt(model(architecture, **EXPERTS, **NOISE[architecture]))
    reference = jolt(copy.deepcopy(policy), seed=1)
    batch = make_batch(PAIR)
    with torch.no_grad():
        expected = PreferenceModel(copy.deepcopy(policy), reference, zoo.dpo()).eval()(batch)
    scored = PreferenceModel(policy, reference, zoo.dpo())
    scored.activation_checkpointing_enable()
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO, "prefopt"):
        scored.train()
        losses = [scored(batch).loss for _ in range(2)]
        scored.train()
        losses += [scored(batch).loss for _ in range(2)]
    assert f"the policy ({type(policy).__name__}) draws at random in training mode" in caplog.text
    assert torch.equal(before, torch.get_rng_state())
    assert policy.training
    assert policy.model.layers[0].training  # where activations are recomputed
    for loss in losses:
        assert torch.equal(loss, losses[0])
        torch.testing.assert_close(loss, expected.loss)


def test_what_does_not_draw_stays_as_it_is(tiny, make_batch, caplog):
    policy = tiny("llama").eval()
    scored = PreferenceModel(policy, tiny("llama"), zoo.dpo())
    with caplog.at_level(logging.INFO, "prefopt"):
        scored(make_batch(PAIR))
    assert "draws at random" not in caplog.text
    assert not any(module.training for module in policy.modules())
    scored.train()
    assert all(module.training for module in policy.modules())


def test_a_model_that_draws_in_evaluation_mode_is_refused(tiny, make_batch):
    class Noise(torch.nn.Module):
        def forward(self, states):
            return states + 1e-3 * torch.randn_like(states)

    policy = tiny("llama")
    policy.model.norm = torch.nn.Sequential(policy.model.norm, Noise())
    with pytest.raises(ValueError, match=r"the policy \(LlamaForCausalLM\) gives two answers to one batch"):
        PreferenceModel(policy, tiny("llama"), zoo.dpo())(make_batch(PAIR))


def test_the_verification_leaves_modes_as_they_were(make_batch, jolt):
    policy = jolt(model("mixtral", **EXPERTS, router_jitter_noise=0.1)).eval()
    policy.model.layers[1].train()
    modes = [module.training for module in policy.modules()]
    assert isinstance(causal_lm(policy), MixtralForCausalLM)
    assert draws_in_training(Role("policy", policy, torch.enable_grad), make_batch(PAIR), torch.device("cpu"))
    assert modes == [module.training for module in policy.modules()]
