"""Compiled models and objectives say what they say uncompiled, and are compiled once for all lengths."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.testing import CompileCounterWithBackend

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from tests.scoring.conftest import drawn

# What torch says to itself while it traces.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    logging.disable(logging.DEBUG)  # thousands of lines a graph, which pytest would keep
    yield
    logging.disable(logging.NOTSET)
    torch.compiler.reset()


@pytest.fixture
def both(tiny, moved):
    """A model, the same compiled with a backend that counts, and the counter."""

    def make(objective, policy=None, backend="eager"):
        reference = None if policy is not None else tiny("llama", num_hidden_layers=1)
        model = PreferenceModel(moved(reference) if policy is None else policy, reference, objective)
        compiled, counter = copy.deepcopy(model), CompileCounterWithBackend(backend)
        compiled.compile(backend=counter)
        return model, compiled, counter

    return make


def compare(model, compiled, batch, same_gradients):
    outputs = [scored(batch) for scored in (model, compiled)]
    for output in outputs:
        output.loss.backward()
    torch.testing.assert_close(outputs[1].losses, outputs[0].losses)
    same_gradients(compiled.policy, model.policy, rtol=1e-9, atol=1e-12)
    for scored in (model, compiled):
        scored.zero_grad()


def lengths(step):
    return [(3 + step, 6 + 2 * step, 4 + step), (25 - step, 1 + step, 7 + 2 * step)]


@pytest.mark.parametrize("count", [4, pytest.param(12, marks=pytest.mark.long)])
def test_many_lengths_compile_once(count, both, make_batch, same_gradients, always):
    model, compiled, counter = both(zoo.tdpo2())
    counts = []
    for step in range(count):
        compare(model, compiled, make_batch(drawn(lengths(step), step)), same_gradients)
        counts.append(counter.frame_count)
    assert counts[0] > 3, "policy with and without gradient, reference, objective"
    assert len(set(counts)) <= 2, "of all later batches, only the first that is one packed row was compiled for"
    assert not compiled.uses_plain_forward
    assert compiled.state_dict().keys() == model.state_dict().keys()


@pytest.mark.long
@pytest.mark.parametrize("name", ["mapo", "sparsepo"])
def test_signals_are_heard(name, both, batch, same_gradients):
    """By hooks and states of the reference, which then runs as it is written."""
    more = {"weighting": {"init": "near_one"}} if name == "sparsepo" else {}  # a fresh mask may be closed throughout
    model, compiled, counter = both(zoo.build({"zoo": name} | more))
    compare(model, compiled, batch, same_gradients)
    compare(model, compiled, batch, same_gradients)
    assert counter.frame_count > 1


@pytest.mark.long
def test_an_adapter_goes_off_in_compiled_code(both, tiny, batch, same_gradients):
    lora = LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    policy = get_peft_model(tiny("llama", num_hidden_layers=1), lora).double()
    model, compiled, _ = both(zoo.tdpo1(), policy)
    compare(model, compiled, batch, same_gradients)
    tokens = compiled.score(batch)
    assert not torch.allclose(tokens.logps, tokens.ref_logps)


@pytest.mark.long
def test_activations_are_recomputed_in_compiled_code(both, batch, same_gradients):
    model, compiled, _ = both(zoo.dpo(), backend="aot_eager")
    for scored in (model, compiled):
        scored.activation_checkpointing_enable()
    compare(model, compiled, batch, same_gradients)


def test_compiled_code_that_is_wrong_is_found_out(tiny, moved, batch):
    def wrong(graph, _):
        def call(*args):
            return tuple(out + 1 if isinstance(out, torch.Tensor) else out for out in graph(*args))

        return call

    reference = tiny("llama", num_hidden_layers=1)
    model = PreferenceModel(moved(reference), reference, zoo.dpo())
    expected = model(batch).loss
    compiled = copy.deepcopy(model)
    compiled._choice.uses_plain_forward = None
    for lm in (compiled.policy, compiled.reference):
        lm.base_model.compile(backend=wrong)
    with pytest.warns(UserWarning, match="hidden states and head differ from those of its own call"):
        torch.testing.assert_close(compiled(batch).loss, expected)
