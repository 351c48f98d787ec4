"""Parameters that are one stay one where accelerate has spread a model, whatever an adapter makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.fsdp import ties_of
from tests.scoring.conftest import ARCHITECTURES, SHAPE

ADAPTERS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "elsewhere": {"target_modules": ["q_proj"]},
    "on the head": {"target_modules": ["q_proj", "lm_head"]},
    "on the embedding": {"target_modules": ["embed_tokens"]},
    "a head of its own": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "an embedding of its own": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


def causal(*, is_tied: bool) -> PreTrainedModel:
    shape = {**SHAPE, **ARCHITECTURES["llama"], "tie_word_embeddings": is_tied}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(("policy_is_tied", "reference_is_tied"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("name", ADAPTERS)
def test_what_was_tied_is_tied_again_and_nothing_else(name: str, policy_is_tied: bool, reference_is_tied: bool) -> None:
    policy: torch.nn.Module = causal(is_tied=policy_is_tied)
    if (adapter := ADAPTERS[name]) is not None:
        policy = get_peft_model(policy, LoraConfig(**adapter))
    model = PreferenceModel(policy, causal(is_tied=reference_is_tied), zoo.dpo())
    before = ties_of(model)
    assert any(path.startswith("policy.") for path in before) == policy_is_tied
    assert any(path.startswith("reference_scorer.") for path in before) == reference_is_tied
    trained = {path for path, tensor in model.named_parameters() if tensor.requires_grad}
    model.to("meta")
    assert not ties_of(model)
    model.tie_weights()
    assert ties_of(model) == before
    assert {path for path, tensor in model.named_parameters() if tensor.requires_grad} == trained
