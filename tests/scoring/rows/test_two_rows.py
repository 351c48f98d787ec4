"""Where pairs share no row: because two rows are less work, or because a model would not see the same."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.limits import attention_window, saves_work
from tests.scoring.conftest import SHAPE, drawn

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def rows_of(model):
    """How many rows every pass has from now on."""
    seen = []
    model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return seen


def test_a_row_is_shared_where_that_is_less_work(tiny, moved, make_batch):
    reference = tiny("llama")
    policy = moved(reference)
    scored = PreferenceModel(policy, reference, zoo.dpo())
    long_prompts, short_prompts = make_batch(drawn([(40, 5, 5)] * 2)), make_batch(drawn([(1, 20, 20)] * 2))
    scored(long_prompts)
    rows = rows_of(policy)
    scored(long_prompts)
    scored(short_prompts)
    scored.shared_prefix = False
    scored(long_prompts)
    assert rows == [2, 4, 4]


@pytest.mark.parametrize(("lengths", "saves"), [([(192, 64, 64)] * 8, True), ([(32, 224, 224)] * 8, False)])
def test_the_work_of_a_small_model(make_batch, lengths, saves):
    batch = make_batch(drawn(lengths))
    assert saves_work(Layout.shared(batch).shape, Layout.two_rows(batch).shape, hidden_size=128) == saves
    # The larger the model, the less attention over longer rows matters.
    assert saves_work(Layout.shared(batch).shape, Layout.two_rows(batch).shape, hidden_size=4096)


@pytest.mark.parametrize(
    ("architecture", "changes", "expected"),
    [
        ("llama", {}, float("inf")),
        ("mistral", {}, 4),
        ("mistral", {"sliding_window": None}, float("inf")),
        ("gemma2", {}, 16),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, float("inf")),
        ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, 0),
        ("gpt_neo", {}, 256),
    ],
)
def test_how_far_layers_see(tiny, architecture, changes, expected):
    model = tiny("llama")
    model.config = tiny(architecture).config
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert attention_window(model) == expected


def test_a_window_that_is_shorter_than_the_first_rows(tiny, moved, always, make_batch, pairs):
    reference = tiny("mistral", sliding_window=8)
    policy = moved(reference)
    scored = PreferenceModel(policy, reference, zoo.dpo())
    with pytest.warns(
        UserWarning, match="policy: MistralForCausalLM has layers that see only the last 8 tokens"
    ) as all_:
        scored(make_batch(pairs))
    assert len(all_) == 1
    assert "a row of its own from now on" in str(all_[0].message)
    assert (scored.shares_prefix, scored.uses_plain_forward) == (False, False)
    scored(make_batch(pairs))  # a second warning would be an error


def test_a_window_that_a_later_batch_outgrows(tiny, moved, always, make_batch, by_hand):
    """Agreement on a short batch says nothing of a longer one, where it would not be there."""
    reference = tiny("mistral", sliding_window=12)
    policy = moved(reference)
    scored = PreferenceModel(policy, reference, zoo.dpo())
    short, long = drawn([(3, 4, 5)]), drawn([(9, 9, 9)])
    scored(make_batch(short))
    rows = rows_of(policy)
    scored(make_batch(short))
    tokens = scored.score(make_batch(long))
    assert rows == [1, 2]
    ratios = [by_hand(policy, reference, long[0][0], response)[0] for response in long[0][1:]]
    torch.testing.assert_close(tokens.logps - tokens.ref_logps, torch.stack(ratios), **CLOSE)


OTHERS = {
    "bloom": ({}, "BloomForCausalLM does not take pairs in one row"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2}, "MptForCausalLM"),
    "mamba": ({"state_size": 4}, "MambaForCausalLM"),
    "falcon": ({"alibi": True}, "FalconForCausalLM does not take pairs in one row"),
}


@pytest.mark.parametrize("architecture", OTHERS)
def test_models_that_cannot(moved, always, batch, architecture):
    """ALiBi counts distances along the row, and a recurrent layer knows no mask."""
    changes, match = OTHERS[architecture]
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(architecture, **SHAPE, **changes), dtype=torch.float32
    )
    policy = moved(reference)
    two = PreferenceModel(copy.deepcopy(policy), reference, zoo.dpo(), shared_prefix=False)(batch)
    scored = PreferenceModel(policy, reference, zoo.dpo())
    with pytest.warns(UserWarning, match=f"policy: {match}") as caught:
        output = scored(batch)
    assert len(caught) == 1
    assert (scored.shares_prefix, scored.uses_plain_forward) == (False, False)
    assert torch.equal(output.losses, two.losses)


def test_a_reference_that_cannot(tiny, always, batch):
    policy, reference = tiny("llama"), tiny("mistral")
    scored = PreferenceModel(policy, reference, zoo.dpo())
    with pytest.warns(UserWarning, match="reference: MistralForCausalLM has layers"):
        scored(batch)
    rows = rows_of(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored(batch)
    assert rows == [6]
    # Nobody runs it for an objective that is reference-free.
    scored = PreferenceModel(policy, reference, zoo.simpo())
    scored(batch)
    assert scored.shares_prefix


def test_a_model_that_ignores_positions(tiny, moved, always, batch, monkeypatch):
    reference = tiny("llama")
    policy = moved(reference)
    usual = policy.model.forward
    monkeypatch.setattr(policy.model, "forward", lambda position_ids=None, **kwargs: usual(**kwargs))
    scored = PreferenceModel(policy, reference, zoo.dpo())
    with pytest.warns(
        UserWarning, match=r"policy: LlamaForCausalLM's log-probabilities differ by up to .* share a row"
    ):
        scored(batch)
    assert not scored.shares_prefix


@pytest.mark.parametrize(("device", "non_blocking"), [("cuda", True), ("xpu", False), ("mps", False)])
def test_rows_may_be_freed_after_they_are_moved(make_batch, monkeypatch, device, non_blocking):
    """A copy that the host does not wait for reads memory that is not pinned later, but under CUDA."""
    layout, moves = Layout.shared(make_batch(drawn([(3, 4, 5)]))), []

    def to(tensor, target, *, non_blocking=False):
        moves.append((str(target), non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    moved = layout.to(torch.device(device))
    assert set(moves) == {(device, non_blocking)}
    assert len(moves) == 9  # every tensor of the layout and of its prefix
    assert moved.prefix.segments is layout.prefix.segments
