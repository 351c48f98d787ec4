"""An embedding that is the head too: autograd adds the rows of its tokens into the head's gradient."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.tied_embedding import states_and_head, takes_sparse_gradient
from tests.scoring.conftest import VOCABULARY


class DenseGradients(TorchDispatchMode):
    """Counts the gradients [V, H] of embeddings that are made."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.embedding_dense_backward.default:
            self.number += len(result) == VOCABULARY  # and not as many as there are positions
        return result


def step(policy, reference, batch, **options):
    """The policy's gradients, and how many dense ones of the embedding were made on the way."""
    policy.zero_grad()
    loss = PreferenceModel(policy, reference, zoo.tdpo2(), **options)(batch).loss
    with DenseGradients() as dense:
        loss.backward()
    return {name: parameter.grad for name, parameter in policy.named_parameters()}, dense.number


@pytest.mark.parametrize("budget", [2**30, 0], ids=["together", "in groups"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_the_same_gradient_without_a_dense_one_of_the_embedding(tiny, moved, batch, name, budget):
    reference = tiny(name, tie_word_embeddings=True)
    policy = moved(reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefopt.scoring.tied_embedding.takes_sparse_gradient", lambda _: False)
        expected, number = step(policy, reference, batch, logits_budget=budget)
    assert number == 1
    gradients, number = step(policy, reference, batch, logits_budget=budget)
    assert number == 0
    for parameter, gradient in expected.items():
        assert gradients[parameter].layout == torch.strided
        torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-12, atol=1e-14)


def test_gradients_add_up_over_steps(tiny, moved, batch):
    reference = tiny("llama", tie_word_embeddings=True)
    model = PreferenceModel(moved(reference), reference, zoo.dpo())
    weight = model.policy.get_input_embeddings().weight
    model(batch).loss.backward()
    once = weight.grad.clone()
    model(batch).loss.backward()
    torch.testing.assert_close(weight.grad, 2 * once, rtol=1e-12, atol=1e-14)
    (gradient,) = torch.autograd.grad(model(batch).loss, [weight])
    torch.testing.assert_close(gradient, once, rtol=1e-12, atol=1e-14)


def test_embeddings_of_their_own_have_dense_gradients(tiny, moved, batch):
    """Of an embedding apart from the head nothing else would be dense, which optimizers need."""
    reference = tiny("llama", tie_word_embeddings=False)
    gradients, number = step(moved(reference), reference, batch)
    assert number == 1
    assert all(gradient.layout == torch.strided for gradient in gradients.values())


def test_a_plain_forward_pass_keeps_it_dense(tiny, moved, batch, monkeypatch):
    monkeypatch.setattr(PreferenceModel, "uses_plain_forward", True)
    reference = tiny("llama", tie_word_embeddings=True)
    assert step(moved(reference), reference, batch)[1] == 1


def test_which_embeddings_take_it(tiny):
    tied = tiny("llama", tie_word_embeddings=True)
    assert takes_sparse_gradient(tied)
    assert takes_sparse_gradient(tied.float())
    assert not takes_sparse_gradient(tied.bfloat16())  # a row would be rounded after each of its tokens
    assert not takes_sparse_gradient(tiny("gemma2", tie_word_embeddings=True))  # an embedding layer of its own kind
    assert not takes_sparse_gradient(tiny("llama", tie_word_embeddings=True).requires_grad_(False))
    compiled = tiny("llama", tie_word_embeddings=True)
    compiled.model.compile(backend="eager")
    assert not takes_sparse_gradient(compiled)


@pytest.mark.parametrize("budget", [2**30, 0], ids=["together", "in groups"])
def test_the_rows_are_added_in_place(tiny, moved, batch, budget):
    """Into the head's gradient, which becomes the parameter's: there is one [V, H] in all."""
    reference = tiny("llama", tie_word_embeddings=True)
    model = PreferenceModel(moved(reference), reference, zoo.dpo(), logits_budget=budget)
    loss = model(batch).loss
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        loss.backward()
    whole = list(model.policy.get_input_embeddings().weight.shape)
    sums = [event for event in profiler.events() if event.input_shapes[:2] == [whole, whole]]
    assert [event.name for event in sums if event.cpu_parent not in sums] == ["aten::add_"]


def test_the_layer_is_left_as_it_was(tiny):
    lm = tiny("llama", tie_word_embeddings=True)
    embedding = lm.get_input_embeddings()
    assert states_and_head(lm, lambda: embedding.sparse)[0]
    assert not embedding.sparse
    with torch.no_grad():
        assert not states_and_head(lm, lambda: embedding.sparse)[0]

    def fail() -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        states_and_head(lm, fail)
    assert not embedding.sparse
