"""Block masks for FlexAttention, which leaves out what no position sees.

On a CPU its kernel runs forward only, in float32, so that the numbers are those of the kernel and the gradients those
of the same call uncompiled.
"""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
import transformers.integrations.flex_attention as integration
from torch.nn.attention import flex_attention as flex

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.forward import forward_hidden_states
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.packing import first_fit
from tests.scoring.conftest import drawn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's compiler, and of how transformers calls it
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
]

LENGTHS = [(90, 40, 60), (20, 30, 30), (100, 20, 10), (3, 2, 2)]
PLACES = ([0, 1, 1, 0], [0, 130, 0, 190])
SUPPORTED = {"gpt_neox": {}, "llama": {}, "qwen3": {}, "gemma2": {"sliding_window": 256}}


@pytest.fixture
def mixed(make_batch):
    return make_batch(drawn(LENGTHS))


def with_flex(model):
    copied = copy.deepcopy(model)
    copied.set_attn_implementation("flex_attention")
    return copied


@pytest.fixture
def uncompiled(monkeypatch):
    """torch's own flex_attention without its kernel, which has a backward pass on any device."""

    def attend(query, key, value, training=False, **options):
        return flex.flex_attention(query, key, value, **options)

    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(integration, "compile_friendly_flex_attention", attend)
    with torch.compiler.set_stance("force_eager"):
        yield


def test_blocks_are_those_of_the_dense_mask(mixed):
    layout = Layout.shared(mixed, first_fit(mixed.lengths.tolist(), 220))
    assert first_fit(mixed.lengths.tolist(), 220) == PLACES
    assert layout.input_ids.shape == (2, 210)
    dense = layout.inputs(torch.float32, "sdpa")["attention_mask"] == 0
    blocks = layout.inputs(torch.float32, "flex_attention")["attention_mask"]
    assert blocks.shape == (2, 1, 210, 210)
    assert torch.equal(flex.create_mask(blocks.mask_mod, 2, 1, 210, 210, device="cpu"), dense)
    padded = torch.nn.functional.pad(dense, (0, 46, 0, 46)).view(2, 2, 128, 2, 128)
    assert torch.equal(blocks.to_dense()[:, 0] != 0, padded.any(-1).any(2))


def test_the_kernel(tiny, mixed):
    if shutil.which("g++") is None:
        pytest.skip("FlexAttention's kernel for CPUs is compiled with g++")
    model = tiny("llama", dtype=torch.float32, max_position_embeddings=256)
    layout = Layout.shared(mixed, first_fit(mixed.lengths.tolist(), 220))
    with torch.no_grad():
        flex, packed, two = (
            forward_hidden_states(scored, rows).hidden
            for scored, rows in ((with_flex(model), layout), (model, layout), (model, Layout.two_rows(mixed)))
        )
    torch.testing.assert_close(flex, packed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(flex, two, rtol=1e-5, atol=1e-5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_values_and_gradients(tiny, always, moved, mixed, same_gradients, uncompiled, architecture):
    reference = tiny(architecture, max_position_embeddings=256, **SUPPORTED[architecture])
    policy = moved(reference)
    scored = PreferenceModel(with_flex(policy), with_flex(reference), zoo.tdpo2())
    two = PreferenceModel(policy, reference, zoo.tdpo2(), shared_prefix=False)
    ours, theirs = scored(mixed), two(mixed)
    assert (scored.shares_prefix, two.shares_prefix) == (True, False)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-5, atol=1e-6)
    ours.loss.backward()
    theirs.loss.backward()
    same_gradients(scored.policy, two.policy, rtol=1e-3, atol=1e-5)
