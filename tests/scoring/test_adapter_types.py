"""Every adapter of the installed PEFT: a step with it moved off its first values is that of plain unpadded calls, or it
is refused."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
from peft import MontecloraConfig, PeftType, get_peft_model
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt import PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel
from prefopt.training.adapters import with_new_adapter
from tests.scoring.conftest import SHAPE, drawn

pytestmark = pytest.mark.slow

LINEAR = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
SQUARE = {"target_modules": ["q_proj", "o_proj"]}
RANK = {"r": 4}
PROMPT = {"num_virtual_tokens": 3}
INVOCATION = 7

AGREE = {
    "lora": ("LoraConfig", {**RANK, **LINEAR}),
    "lora dropout": ("LoraConfig", {**RANK, **LINEAR, "lora_dropout": 0.5}),
    "lora bias": ("LoraConfig", {**RANK, **LINEAR, "lora_bias": True}),
    "lora on embeddings": ("LoraConfig", {**RANK, "target_modules": ["embed_tokens", "q_proj"]}),
    "lora on tokens": ("LoraConfig", {**RANK, **LINEAR, "trainable_token_indices": [1, 2, INVOCATION]}),
    "dora": ("LoraConfig", {**RANK, **LINEAR, "use_dora": True}),
    "rslora": ("LoraConfig", {**RANK, **LINEAR, "use_rslora": True}),
    "qalora": ("LoraConfig", {**RANK, **LINEAR, "use_qalora": True, "qalora_group_size": 8}),
    "velora": ("LoraConfig", {**RANK, **LINEAR, "velora_config": {"num_groups": 4}}),
    "monteclora": ("LoraConfig", {**RANK, **LINEAR, "monteclora_config": MontecloraConfig()}),
    "target parameters": ("LoraConfig", {**RANK, "target_modules": [], "target_parameters": ["q_proj.weight"]}),
    "adalora": ("AdaLoraConfig", {**LINEAR, "total_step": 10, "init_r": 4, "target_r": 2}),
    "adaption prompt": ("AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 2}),
    "ia3": ("IA3Config", {**LINEAR, "feedforward_modules": ["down_proj"]}),
    "loha": ("LoHaConfig", {**RANK, **LINEAR, "rank_dropout": 0.5, "module_dropout": 0.5}),
    "lokr": ("LoKrConfig", {**RANK, **LINEAR, "rank_dropout": 0.5, "module_dropout": 0.5}),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 4, **LINEAR, "module_dropout": 0.5}),
    "boft": ("BOFTConfig", {"boft_block_size": 4, **LINEAR, "boft_dropout": 0.5}),
    "ln tuning": ("LNTuningConfig", {"target_modules": ["input_layernorm", "norm"]}),
    "vera": ("VeraConfig", {**RANK, **SQUARE, "vera_dropout": 0.5}),
    "pvera": ("PveraConfig", {**RANK, **SQUARE}),
    "frod": ("FrodConfig", {**SQUARE, "progressbar": False}),
    "fourierft": ("FourierFTConfig", {"n_frequency": 50, **LINEAR}),
    "glora": ("GloraConfig", {**RANK, **LINEAR}),
    "hra": ("HRAConfig", {**RANK, **LINEAR}),
    "vblora": ("VBLoRAConfig", {**RANK, **LINEAR, "num_vectors": 8, "vector_length": 8, "topk": 2}),
    "unilora": ("UniLoraConfig", {**RANK, **LINEAR, "theta_d_length": 64}),
    "miss": ("MissConfig", {**RANK, **LINEAR}),
    "randlora": ("RandLoraConfig", {**RANK, **LINEAR}),
    "road": ("RoadConfig", {"group_size": 8, **LINEAR}),
    "trainable tokens": ("TrainableTokensConfig", {"token_indices": [1, 2, 7], "target_modules": ["embed_tokens"]}),
    "hira": ("HiraConfig", {**RANK, **LINEAR}),
    "shira": ("ShiraConfig", {**RANK, **LINEAR}),
    "c3a": ("C3AConfig", {"block_size": 8, "target_modules": ["q_proj", "v_proj"]}),
    "waveft": ("WaveFTConfig", {"n_frequency": 50, **LINEAR}),
    "osf": ("OSFConfig", {"effective_rank": 8, **LINEAR}),
    "delora": ("DeloraConfig", {**RANK, **LINEAR, "module_dropout": 0.5}),
    "gralora": ("GraloraConfig", {**RANK, "gralora_k": 2, **LINEAR}),
    "adamss": ("AdamssConfig", {**RANK, "num_subspaces": 2, **LINEAR}),
    "tinylora": ("TinyLoraConfig", {**RANK, **LINEAR}),
    "psoft": ("PsoftConfig", {**RANK, **LINEAR}),
    "peanut": ("PeanutConfig", {**RANK, **LINEAR}),
    "supertuning": ("SupertuningConfig", {**LINEAR}),
    "deft": ("DeftConfig", {**RANK, **LINEAR}),
    "beft": ("BeftConfig", {"target_modules": ["v_proj"]}),
}
"""A name -> the configuration and its fields; hidden states and head give what the model's own call gives."""

PLAIN = {
    "alora": ("LoraConfig", {**RANK, **LINEAR, "alora_invocation_tokens": [INVOCATION]}),
    "lora on the head": ("LoraConfig", {**RANK, "target_modules": ["lm_head", "q_proj"]}),
    "whole head": ("LoraConfig", {**RANK, **LINEAR, "modules_to_save": ["lm_head"]}),
    "shadow": ("ShadowConfig", {**RANK}),
    "prompt tuning": ("PromptTuningConfig", PROMPT),
    "p-tuning": ("PromptEncoderConfig", {**PROMPT, "encoder_hidden_size": 16}),
    "prefix tuning": ("PrefixTuningConfig", PROMPT),
    "cpt": ("CPTConfig", {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]}),
    "cartridge": ("CartridgeConfig", {**PROMPT, "num_frozen_tokens": 1}),
}
"""Those that only the model's own call takes in."""

REFUSED = {
    "lily": ("LilyConfig", {**RANK, "stride_A": 1, "num_B": 2, **SQUARE}, "differ by up to"),
    "pvera that samples": (
        "PveraConfig",
        {**RANK, **SQUARE, "sample_at_inference": True},
        "differ by up to|two answers to one batch",
    ),
    "poly": ("PolyConfig", {**RANK, **LINEAR, "n_tasks": 2, "n_skills": 2, "n_splits": 2}, "a task for each row"),
    "multitask prompt tuning": ("MultitaskPromptTuningConfig", {**PROMPT, "num_tasks": 2}, "a task for each row"),
}

_HALF_AT_FIRST = {"psoft"}
"""Those whose first values are computed in float32 at most."""

PAIRS = [
    ([*prompt, INVOCATION], *([token for token in side if token != INVOCATION] for side in sides))
    for prompt, *sides in drawn([(5, 6, 4), (8, 3, 7), (11, 4, 4)], seed=1)
]


@pytest.fixture(name="policy")
def make_policy():
    """A tiny Llama of float64 with an adapter in training mode, after its parameters were moved."""

    def make(config, fields, name=""):
        torch.manual_seed(0)
        base = LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=48, num_key_value_heads=4))
        base = base if name in _HALF_AT_FIRST else base.double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's advice on its settings
            peft_config = getattr(peft, config)(task_type="CAUSAL_LM", **fields)
            model = with_new_adapter(base, peft_config, None, is_reference=False).double()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.add_(0.2 * noise.to(parameter.dtype))
        return model

    return make


def by_hand(model):
    """DPO's loss from one plain call of each response, without padding."""

    def logp(prompt, response):
        logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
        labels = torch.tensor(response)[:, None]
        return logits.log_softmax(-1)[-len(response) - 1 : -1].gather(-1, labels).sum()

    losses = []
    for prompt, chosen, rejected in PAIRS:
        with torch.no_grad(), model.disable_adapter():
            reference = logp(prompt, chosen) - logp(prompt, rejected)
        losses.append(-logsigmoid(0.1 * (logp(prompt, chosen) - logp(prompt, rejected) - reference)))
    return torch.stack(losses).mean()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's own, of FRoD's sparse products
@pytest.mark.parametrize("name", [*AGREE, *PLAIN])
def test_a_step_is_that_of_plain_calls(policy, always, name):
    model = policy(*(AGREE | PLAIN)[name], name)
    batch = PreferenceBatch.from_ids(*zip(*PAIRS, strict=True), pad_token_id=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="policy: ")
        scored = PreferenceModel(model, None, zoo.dpo()).train()
        loss = scored(batch).loss
    loss.backward()
    assert (scored.uses_plain_forward, scored.shares_prefix) == (name in PLAIN, name in AGREE)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad for name, parameter in trained.items()}
    model.zero_grad()
    model.eval()
    expected = by_hand(model)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-9)
    assert any(parameter.grad is not None and bool((parameter.grad != 0).any()) for parameter in trained.values())
    for name, parameter in trained.items():
        ours, theirs = (torch.zeros_like(parameter) if g is None else g for g in (gradients[name], parameter.grad))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=lambda text, at=name: f"{at}: {text}")


@pytest.mark.parametrize("name", REFUSED)
def test_what_gives_a_response_no_log_probability_is_refused(policy, name):
    config, fields, message = REFUSED[name]
    model = policy(config, fields)
    batch = PreferenceBatch.from_ids(*zip(*PAIRS, strict=True), pad_token_id=0)
    with pytest.raises(ValueError, match=message):
        PreferenceModel(model, None, zoo.dpo())(batch)


def test_xlora_is_called_plainly(policy, tmp_path):
    """It mixes trained LoRA adapters by what the model says, in the model's own call."""
    experts = {}
    for expert in ("0", "1"):
        model = policy("LoraConfig", {**RANK, **LINEAR})
        model.save_pretrained(tmp_path / expert)
        experts[expert] = str(tmp_path / expert)
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=48, num_key_value_heads=4, use_cache=False))
    config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters=experts, xlora_depth=1)
    model = get_peft_model(base, config).double()
    batch = PreferenceBatch.from_ids(*zip(*PAIRS, strict=True), pad_token_id=0)
    with pytest.warns(UserWarning, match="hooks into the model's own call"):
        loss = PreferenceModel(model, None, zoo.dpo()).train()(batch).loss
    torch.testing.assert_close(loss, by_hand(model.eval()), rtol=1e-7, atol=1e-9)


def test_the_lists_are_those_of_the_installed_peft():
    """XLora needs trained adapters, and is tried with them on its own."""
    classes = {peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind].__name__ for kind in PeftType}
    assert classes - {config for config, *_ in (AGREE | PLAIN | REFUSED).values()} == {"XLoraConfig"}
