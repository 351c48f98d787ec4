"""The CPU's kernel where the vocabulary takes several blocks, and what it adds up without filling memory first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prefopt.divergences import ForwardKL, ReverseKL
from prefopt.scoring import token_statistics
from prefopt.scoring.lm_head import online_softmax
from prefopt.scoring.lm_head.head import HeadGradient
from prefopt.signals import log_collision_probability
from tests.scoring.token_cases import assert_same, dense, dense_logits, fused, gradients, loss_of, name_of, setting

ROWS = 4
"""Token ids of a block."""


@pytest.fixture(autouse=True, params=[1, 2], ids="{} threads".format)
def several_blocks(request, monkeypatch):
    monkeypatch.setattr(online_softmax, "block_rows", lambda *_: ROWS)
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


def with_bias(at, bias):
    """Both heads with these biases added to their own [V]."""
    for name in ("head", "ref_head"):
        head = getattr(at, name)
        setattr(at, name, replace(head, bias=(head.bias.detach() + bias).to(head.bias.dtype).requires_grad_()))
    return at


def raised(amount, *, blocks):
    """Biases [V] that raise all logits of some blocks."""
    bias = torch.zeros(17, dtype=torch.float64)
    for block in blocks:
        bias[ROWS * block : ROWS * (block + 1)] = amount
    return bias


@pytest.mark.parametrize("budget", [0, 2**30])
@pytest.mark.parametrize("divergence", [None, ForwardKL(), ReverseKL()], ids=name_of)
@pytest.mark.parametrize(
    "bias",
    [raised(0, blocks=[]), raised(20, blocks=[2]), raised(600, blocks=[1, 4]), raised(-800, blocks=[1, 2, 3, 4])],
    ids=["alike", "one above", "far above the first", "far below the first"],
)
def test_blocks_far_apart(bias, divergence, budget):
    at = with_bias(setting(bias=True), bias)
    expected, actual = dense(at, divergence), fused(at, divergence, budget=budget, chunk_size=4, log_collision=True)
    assert_same(actual, expected)
    assert_same(gradients(at, loss_of(at, actual)), gradients(at, loss_of(at, expected)))
    collision = log_collision_probability(dense_logits(at.hidden, at.head).log_softmax(-1))
    torch.testing.assert_close(actual.log_collision, collision, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_float32_does_not_overflow_where_the_first_block_is_excluded(shared):
    at = with_bias(setting(bias=True, dtype=torch.float32), raised(-torch.inf, blocks=[0]))
    at = with_bias(at, raised(90, blocks=[3]))
    at.labels = torch.full_like(at.labels, 13)
    if shared:
        at.ref_head = at.head
    divergence = ReverseKL()
    actual, expected = fused(at, divergence), dense(at, divergence)
    assert_same(actual, expected, rtol=1e-5, atol=1e-5)
    expected_gradients = [gradient.nan_to_num() for gradient in gradients(at, loss_of(at, expected))]
    assert_same(gradients(at, loss_of(at, actual)), expected_gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1e6, 1e9, 1e30])
def test_logits_of_any_size_that_float32_has(size):
    """Where z log2 e is rounded by more than 1."""
    at = setting(dtype=torch.float32)
    at.head = replace(at.head, weight=(size * at.head.weight.detach()).requires_grad_())
    actual, expected = fused(at, ForwardKL()), dense(at, ForwardKL())
    torch.testing.assert_close(actual.logps, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.divergence, expected[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_broken_logit_is_not_hidden(broken):
    bias = torch.zeros(17)
    bias[9] = broken
    at = with_bias(setting(bias=True), bias)
    assert bool(fused(at, ForwardKL()).logps.isnan().all())


@pytest.mark.parametrize("divergence", [None, ForwardKL()], ids=name_of)
def test_nothing_is_read_of_uninitialised_memory(divergence, monkeypatch):
    at = setting(bias=True)
    expected = gradients(at, loss_of(at, dense(at, divergence)))
    blank = HeadGradient.blank.__func__

    def of_nans(cls, *args, **options):
        memory = blank(cls, *args, **options)
        for tensor in memory.parameters:
            if tensor is not None:
                tensor.fill_(torch.nan)
        return memory

    monkeypatch.setattr(HeadGradient, "blank", classmethod(of_nans))
    for chunk_size in (None, 3):
        actual = gradients(at, loss_of(at, fused(at, divergence, chunk_size=chunk_size)))
        assert_same(actual, expected)
    nothing = token_statistics(at.hidden[:0], at.head, at.ref_hidden[:0], at.ref_head, at.labels[:0], divergence)
    for gradient in torch.autograd.grad(nothing.logps.sum(), [at.head.weight, at.head.bias]):
        assert not gradient.any()


def test_gradients_times_a_factor_are_written_first_and_added_then():
    head = setting(bias=True).head
    total, other = HeadGradient.blank(head), HeadGradient.blank(head)
    ones = torch.ones(3, 17, dtype=torch.float64)
    other.add(slice(None), ones, torch.ones(3, 8, dtype=torch.float64), ones)
    other.end_chunk()
    for times in (1, 2):
        total.add_scaled(other, torch.tensor(2.0))
        assert total.weight is not None
        assert total.weight.unique().tolist() == [6.0 * times]
        assert total.bias is not None
        assert total.bias.unique().tolist() == [6.0 * times]
    assert total.written
    total.add_scaled(HeadGradient.blank(head), torch.tensor(2.0))  # which holds nothing yet
    assert total.weight.unique().tolist() == [12.0]
