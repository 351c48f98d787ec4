"""Every causal language model of the installed transformers: right in shared rows, right in rows of their own, right
called plainly, or refused in one line."""

from __future__ import annotations

import traceback
import warnings

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from tests.scoring.architectures import tiny_config
from tests.scoring.conftest import drawn

pytestmark = pytest.mark.slow

FLOAT32 = {"inkling2_text", "prophetnet", "xglm", "xlnet"}
"""Their code has float32 constants."""

ABSENT = {
    "dbrx": "its default configuration has no rope_theta",
    "gemma3n": "it takes timm",
    "gemma4_assistant": "it reads the states of another model",
    "gemma4_unified_assistant": "it reads the states of another model",
    "musicgen": "its configuration has no dropout",
    "musicgen_melody": "its configuration has no dropout",
    "reformer": "it trains on rows of one length only",
}
"""What transformers cannot build, or call on rows of text."""

# Those that lose nothing of the fast path; others may run in any way that is right.
SHARED = set(
    """
    afmoe apertus arcee aria_text axk1 beam biogpt bitnet codegen cohere cohere2 cohere2_moe cohere_compass_text
    ctrl cwm deepseek_v2 deepseek_v3 diffllama doge dots1 emu3 ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon
    flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text gemma4 gemma4_text gemma4_unified gemma4_unified_text
    git glm glm4 glm4_moe glm4_moe_lite got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese
    gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text hunyuan_v1_dense
    hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna lfm2 llama mellum
    mimo_v2_flash minicpm3 minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral moshi
    moss_transcribe_diarize nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phi4_multimodal
    phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma whisper
    xglm youtu
    """.split()
)

BETA, L1_REWARD, L1_DIVERGENCE = 0.4, 0.02, 0.05
LENGTHS = [(4, 5, 3), (2, 1, 6)]


def build(model_type):
    config = tiny_config(model_type)
    dtype = torch.float32 if model_type in FLOAT32 else torch.float64
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).to(dtype)


def by_hand(scored, pairs):
    """SparsePO's loss, each response a call of its own, without padding."""
    losses = []
    mask = scored.objective.weighting
    for prompt, *responses in pairs:
        rewards, penalty = [], 0
        for response in responses:
            ids, at = torch.tensor([prompt + response]), slice(len(prompt) - 1, -1)
            labels = torch.tensor(response)[:, None]
            kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
            logps = scored.policy(**kwargs).logits[0, at].log_softmax(-1)
            with torch.no_grad():
                output = scored.reference(**kwargs, output_hidden_states=True)
                ref_logps = output.logits[0, at].log_softmax(-1)
            weights = 0
            for layer, state in enumerate(output.hidden_states[-len(mask.mixer) :]):
                normed = F.layer_norm(state[0, at], state.shape[-1:], mask.norm.weight, mask.norm.bias)
                weights = weights + mask.mixer[layer] * torch.relu(normed @ mask.weight[layer] + mask.bias[layer])
            weights = torch.relu(weights)
            ratios = (logps - ref_logps).gather(-1, labels)[:, 0]
            divergence = (ref_logps.exp() * (ref_logps - logps)).sum(-1)
            rewards.append(BETA * (weights * (ratios + divergence)).sum())
            penalty = penalty + (L1_REWARD + L1_DIVERGENCE) / 2 * weights.sum()
        losses.append(-F.logsigmoid(rewards[0] - rewards[1]) + penalty)
    return torch.stack(losses).mean()


def is_refusal(error):
    """Whether it is one line of ours, and not a failure somewhere in modelling code."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, (TypeError, ValueError)) and "/prefopt/" in raised_in and "\n" not in str(error)


@pytest.fixture
def outcome(moved, jolt, always, make_batch):
    """The way in which an architecture runs, whose loss and gradients are asserted to be right; or the refusal."""

    def run(model_type):
        reference = build(model_type)
        dtype = reference.dtype
        jolt(reference)
        policy, pairs = moved(reference), drawn(LENGTHS, seed=1)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                scored = PreferenceModel(
                    policy, reference, zoo.sparsepo(BETA, True, L1_REWARD, L1_DIVERGENCE), router_aux_loss_coef=0.0
                )
                jolt(scored.objective.to(dtype), seed=3, noise=0.3)
                output = scored(make_batch(pairs))
        except Exception as error:
            if not is_refusal(error):
                raise
            return f"refused: {error}"
        output.loss.backward()
        learned = {name: p for name, p in scored.named_parameters() if not name.startswith("reference")}
        gradients = {name: None if p.grad is None else p.grad.clone() for name, p in learned.items()}
        scored.zero_grad()
        loss = by_hand(scored, pairs)
        loss.backward()
        close = 1e-3 if dtype == torch.float32 else 1e-5
        torch.testing.assert_close(output.loss, loss, rtol=close, atol=close / 10)
        largest = max(p.grad.abs().max() for p in learned.values() if p.grad is not None)
        assert any(bool((p.grad != 0).any()) for p in scored.objective.parameters())
        for name, parameter in learned.items():
            ours, theirs = (
                torch.zeros_like(parameter) if gradient is None else gradient
                for gradient in (gradients[name], parameter.grad)
            )
            torch.testing.assert_close(
                ours, theirs, rtol=10 * close, atol=close * largest, msg=lambda text, at=name: f"{at}: {text}"
            )
        messages = [str(warning.message) for warning in caught if "from now on" in str(warning.message)]
        way = "plain" if scored.uses_plain_forward else "shared rows" if scored.shares_prefix else "own rows"
        assert bool(messages) == (way != "shared rows")
        return way + "".join(f": {message}" for message in messages)

    return run


@pytest.mark.one_in(7)
@pytest.mark.parametrize("model_type", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(ABSENT)))
def test_right_or_refused(outcome, model_type):
    way = outcome(model_type)
    assert way == "shared rows" or model_type not in SHARED, way
