"""The auxiliary loss of mixtures of experts, against transformers' own."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from tests.scoring.conftest import SHAPE, drawn

pytestmark = pytest.mark.slow

COEFFICIENT = 0.3
CHANGES = {
    "intermediate_size": 24,
    "moe_intermediate_size": 16,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": COEFFICIENT,
}
PAIRS = drawn([(9, 4, 2), (1, 2, 1), (3, 2, 4)])


def mixture(name, jolt, seed=0, **changes):
    config = AutoConfig.for_model(name, **{**SHAPE, **CHANGES, **changes})
    torch.manual_seed(seed)
    return jolt(AutoModelForCausalLM.from_config(config, experts_implementation="eager"), seed).double().eval()


@pytest.fixture
def by_transformers(same_gradients):
    """Asserts that a step has the objective's loss and gradients and those of transformers' auxiliary loss."""

    def check(scored, reference, batch):
        policy = copy.deepcopy(scored.policy)
        output = scored(batch)
        output.loss.backward()
        rows = [prompt + response for side in (1, 2) for prompt, response in ((p[0], p[side]) for p in PAIRS)]
        width = max(map(len, rows))
        ids, mask = (
            torch.tensor([[value if kind == "ids" else 1 for value in row] + [0] * (width - len(row)) for row in rows])
            for kind in ("ids", "mask")
        )
        aux = policy(input_ids=ids, attention_mask=mask, output_router_logits=True, use_cache=False).aux_loss
        plain = PreferenceModel(policy, reference, zoo.dpo(), router_aux_loss_coef=0.0, shared_prefix=False)
        assert plain.router_loss is None
        expected = plain(batch).loss + COEFFICIENT * aux
        expected.backward()
        torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=1e-6)
        assert output.metrics["aux_loss"].value == pytest.approx(aux.item(), rel=1e-6)
        torch.testing.assert_close(output.losses.mean(), plain(batch).loss.detach(), rtol=1e-6, atol=1e-6)
        same_gradients(scored.policy, policy, rtol=1e-5, atol=1e-6)

    return check


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "architecture", ["mixtral", "qwen3_moe", "gpt_oss", "granitemoe", "jetmoe", "minimax", "phimoe"]
)
def test_it_is_transformers_own(architecture, jolt, always, make_batch, by_transformers):
    policy, reference = mixture(architecture, jolt), mixture(architecture, jolt, seed=1)
    scored = PreferenceModel(policy, reference, zoo.dpo())
    by_transformers(scored, reference, make_batch(PAIRS))
    assert scored.shares_prefix == (architecture != "minimax")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("budget", [2**28, 0])
def test_in_groups_of_pairs_and_with_activations_recomputed(
    budget, checkpointing, jolt, one_row, make_batch, by_transformers
):
    policy, reference = mixture("mixtral", jolt), mixture("mixtral", jolt, seed=1)
    scored = PreferenceModel(policy, reference, zoo.dpo(), logits_budget=budget)
    if checkpointing:
        scored.activation_checkpointing_enable()
    by_transformers(scored.train(), reference, make_batch(PAIRS))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("budget", [2**28, 0])
def test_reentrant_checkpointing_would_leave_it_without_gradient(budget, jolt, one_row, make_batch):
    def scored(coefficient):
        policy, reference = mixture("mixtral", jolt), mixture("mixtral", jolt, seed=1)
        options = {"logits_budget": budget, "router_aux_loss_coef": coefficient}
        model = PreferenceModel(policy, reference, zoo.dpo(), **options).train()
        policy.enable_input_require_grads()
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
        return model

    with pytest.raises(ValueError, match=r"no gradient where activations are recomputed with use_reentrant: true"):
        scored(1.0)(make_batch(PAIRS))
    scored(0.0)(make_batch(PAIRS)).loss.backward()
    with torch.no_grad():
        assert "aux_loss" in scored(1.0)(make_batch(PAIRS)).metrics


def test_where_models_are_called_plainly(jolt, make_batch, by_transformers):
    policy, reference = mixture("mixtral", jolt), mixture("mixtral", jolt, seed=1)
    for lm in (policy, reference):
        lm.lm_head.register_forward_hook(lambda module, inputs, output: 1.5 * output)
    scored = PreferenceModel(policy, reference, zoo.dpo())
    with pytest.warns(UserWarning, match="Calling the models plainly"):
        scored(make_batch(PAIRS))
    assert scored.uses_plain_forward
    with pytest.warns(UserWarning, match="Calling the models plainly"):
        by_transformers(scored, reference, make_batch(PAIRS))


def test_the_coefficient(jolt, tiny, make_batch, caplog):
    reference, batch = mixture("mixtral", jolt, seed=1), make_batch(PAIRS)
    losses = {}
    for coefficient in (None, 0.0, 2.0):
        policy = mixture("mixtral", jolt)
        output = PreferenceModel(policy, reference, zoo.dpo(), router_aux_loss_coef=coefficient)(batch)
        losses[coefficient] = output.loss.item()
        assert ("aux_loss" in output.metrics) == (coefficient != 0.0)
        aux = output.metrics["aux_loss"].value if coefficient else None
    assert losses[2.0] - losses[0.0] == pytest.approx(2.0 * aux, rel=1e-5)
    assert losses[None] - losses[0.0] == pytest.approx(COEFFICIENT * aux, rel=1e-5)
    with pytest.raises(ValueError, match=r"router_aux_loss_coef is -1.0 and must not be negative"):
        PreferenceModel(mixture("mixtral", jolt), reference, zoo.dpo(), router_aux_loss_coef=-1.0)
    with pytest.raises(ValueError, match="has no effect: LlamaForCausalLM has no auxiliary loss that is known"):
        PreferenceModel(tiny("llama"), tiny("llama"), zoo.dpo(), router_aux_loss_coef=0.1)
    PreferenceModel(mixture("doge", jolt), mixture("doge", jolt), zoo.dpo())
    assert "DogeForCausalLM has no auxiliary loss that is known; it is not added" in caplog.text
