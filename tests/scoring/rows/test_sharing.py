"""Pairs that share a row [prompt | chosen | rejected], against two rows a pair."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from prefopt import zoo
from prefopt.component import Signal
from prefopt.scoring import PreferenceModel
from prefopt.scoring.forward import forward_hidden_states
from prefopt.scoring.rows.layout import Layout
from prefopt.weightings import SparseWeighting
from tests.scoring.conftest import drawn

SHARING = ("gpt2", "gpt_neox", "llama", "qwen3", "gemma2", "gptj", "gpt_bigcode", "phi", "cohere", "granite", "opt")
SHARING = (*SHARING, "falcon", "gpt_neo")
OBJECTIVES = {
    "dpo": zoo.dpo(0.4),
    "tdpo2": zoo.tdpo2(0.4, 0.7),
    "simpo": zoo.simpo(),
    "mapo": zoo.mapo(),
    "sparsepo": zoo.sparsepo(),
    "sparsepo_at_tokens": zoo.sparsepo().model_copy(update={"weighting": SparseWeighting(position="token")}),
}
# Norms and softmax of most architectures run in float32 even in a float64 model.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def test_a_row_a_pair(make_batch):
    """Written out by hand: two pairs, of 2 + 2 + 1 and 1 + 1 + 2 tokens."""
    layout = Layout.shared(make_batch([([1, 2], [3, 4], [5]), ([6], [7], [8, 9])]))
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]
    assert layout.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    inputs = layout.inputs(torch.float64)
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 2], [0, 1, 1, 2, 0]]
    assert layout.labels.tolist() == [3, 4, 7, 5, 8, 9]  # chosen rows first, as `mask` walks
    assert layout.label_positions.tolist() == [2, 3, 6, 4, 7, 8]
    assert layout.query_positions.tolist() == [1, 2, 5, 1, 5, 7]
    assert inputs["attention_mask"].dtype == torch.float64
    assert (inputs["attention_mask"] == 0).int().tolist() == [
        [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]],
        [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 1]]],
    ]


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("objective", ["tdpo2", "mapo", "sparsepo"])
@pytest.mark.parametrize("architecture", SHARING)
def test_a_step_is_that_of_two_rows(tiny, agree_with_two_rows, batch, architecture, objective):
    agree_with_two_rows(tiny(architecture), batch, OBJECTIVES[objective], **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_to_the_last_digits(tiny, agree_with_two_rows, batch, attention, objective):
    """GPT-2 computes everything in the model's own precision, so that float64 is float64 throughout."""
    agree_with_two_rows(tiny("gpt2", attn_implementation=attention), batch, OBJECTIVES[objective], **EXACT)


@pytest.mark.slow
def test_float32(tiny, agree_with_two_rows, batch):
    for architecture in ("gpt2", "llama", "gpt_neox"):
        agree_with_two_rows(tiny(architecture, dtype=torch.float32), batch, OBJECTIVES["tdpo2"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_any_lengths(tiny, make_batch, lengths, seed):
    """Ragged batches, prompts and responses of one token."""
    model, batch = tiny("gpt2").eval(), make_batch(drawn(lengths, seed))
    signals = frozenset(Signal)
    one, two = (
        forward_hidden_states(
            model, layout, signals=signals, activation_kinds=frozenset({"mlp", "attn", "resid", "logits"})
        )
        for layout in (Layout.shared(batch), Layout.two_rows(batch))
    )
    torch.testing.assert_close(one.hidden, two.hidden, **EXACT)
    torch.testing.assert_close(one.signals, two.signals, **EXACT)


def test_the_responses_do_not_see_each_other(tiny, always, make_batch, moved):
    reference = tiny("llama")
    scored = PreferenceModel(moved(reference), reference, zoo.tdpo2())
    pair, other = drawn([(5, 4, 6), (5, 4, 6)])
    usual = scored.score(make_batch([pair]))
    with_another_rejected = scored.score(make_batch([(pair[0], pair[1], other[2])]))
    with_another_chosen = scored.score(make_batch([(pair[0], other[1], pair[2])]))
    torch.testing.assert_close(with_another_rejected.logps[0], usual.logps[0], rtol=0, atol=0)
    torch.testing.assert_close(with_another_chosen.logps[1], usual.logps[1], rtol=0, atol=0)
    assert not torch.allclose(with_another_chosen.logps[0], usual.logps[0])


@pytest.mark.parametrize("objective", ["dpo", "tdpo2", "mapo", "sparsepo"])
def test_an_adapter(tiny, jolt, always, batch, same_gradients, objective):
    base = get_peft_model(tiny("gpt_neox"), LoraConfig(r=4, target_modules=["query_key_value"])).double()
    for name, parameter in base.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    one, two = (
        PreferenceModel(copy.deepcopy(base), None, OBJECTIVES[objective], shared_prefix=shared)
        for shared in (True, False)
    )
    jolt(one.objective.to(torch.float64), noise=0.3)
    two.objective.to(torch.float64).load_state_dict(one.objective.state_dict())
    ours, theirs = one(batch), two(batch)
    assert one.shares_prefix
    torch.testing.assert_close(ours.losses, theirs.losses, **CLOSE)
    ours.loss.backward()
    theirs.loss.backward()
    same_gradients(one.policy, two.policy, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_half_precision_and_autocast(tiny, moved, always, batch):
    reference = tiny("llama", dtype=torch.float32)
    expected = PreferenceModel(moved(reference), reference, zoo.tdpo2())(batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scored = PreferenceModel(moved(reference), reference, zoo.tdpo2())
        torch.testing.assert_close(scored(batch).loss, expected, rtol=0.05, atol=0.05)
        assert scored.shares_prefix
    scored = PreferenceModel(moved(reference).bfloat16(), reference.bfloat16(), zoo.tdpo2())
    torch.testing.assert_close(scored(batch).loss, expected, rtol=0.05, atol=0.05)
    assert scored.shares_prefix
