"""token_statistics against dense autograd, in float64 unless the precision is the point."""

from __future__ import annotations

import itertools

import pytest
import torch

from prefopt.divergences import ForwardKL, JensenShannon, ReverseKL
from prefopt.scoring import dense_statistics
from prefopt.scoring.lm_head.head import HeadGradient
from tests.scoring.token_cases import (
    DIVERGENCES,
    ENTRY_BYTES,
    HEADS,
    TOKENS,
    assert_same,
    dense,
    dense_logits,
    fused,
    gradients,
    loss_of,
    name_of,
    setting,
)


@pytest.mark.parametrize("head", HEADS, ids=name_of)
@pytest.mark.parametrize("divergence", [None, *DIVERGENCES], ids=name_of)
def test_equals_dense_autograd_whatever_the_chunks_and_the_budget(divergence, head):
    at = setting(**head)
    expected = dense(at, divergence)
    expected_gradients = gradients(at, loss_of(at, expected))
    tiny = 2 * 3 * ENTRY_BYTES  # what one chunk of three tokens needs for both models
    for chunk_size, budget in itertools.product((1, 3, TOKENS, TOKENS + 5, None), (0, tiny, 2**30)):
        actual = fused(at, divergence, chunk_size=chunk_size, budget=budget)
        assert_same(actual, expected)
        assert_same(gradients(at, loss_of(at, actual)), expected_gradients)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=name_of)
def test_dense_statistics_say_the_same(divergence):
    at = setting(bias=True, softcap=2.0)
    logits, ref_logits = dense_logits(at.hidden, at.head), dense_logits(at.ref_hidden, at.ref_head)
    actual = dense_statistics(logits, ref_logits, at.labels, divergence)
    expected = fused(at, divergence, chunk_size=4)
    assert_same(actual, expected)
    assert_same(gradients(at, loss_of(at, actual)), gradients(at, loss_of(at, expected)))
    assert not actual.ref_logps.requires_grad
    assert_same(dense_statistics(logits, None, at.labels), (expected.logps, torch.zeros(TOKENS), None))


@pytest.mark.parametrize("chunk_size", [1, 3, None])
@pytest.mark.parametrize("divergence", [None, ForwardKL()], ids=name_of)
def test_the_chance_of_two_like_draws(divergence, chunk_size):
    at = setting(bias=True, softcap=2.0)
    logits, ref_logits = dense_logits(at.hidden, at.head), dense_logits(at.ref_hidden, at.ref_head)
    expected = (logits.softmax(-1) ** 2).sum(-1).log()
    for actual in (
        fused(at, divergence, log_collision=True, chunk_size=chunk_size),
        dense_statistics(logits, ref_logits, at.labels, divergence, log_collision=True),
        dense_statistics(logits, None, at.labels, log_collision=True),
    ):
        torch.testing.assert_close(actual.log_collision, expected)
        assert not actual.log_collision.requires_grad
    with_it, without = (fused(at, divergence, log_collision=asked) for asked in (True, False))
    assert_same(gradients(at, loss_of(at, with_it)), gradients(at, loss_of(at, without)))


@pytest.mark.parametrize("term", ["logps", "divergence"])
@pytest.mark.parametrize("budget", [0, 2**30])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=name_of)
def test_a_loss_may_read_one_statistic_only(divergence, budget, term):
    at = setting(bias=True, scale=0.7)
    actual = gradients(at, loss_of(at, fused(at, divergence, chunk_size=4, budget=budget), (term,)))
    assert_same(actual, gradients(at, loss_of(at, dense(at, divergence), (term,))))


def test_the_reference_never_gets_gradient():
    at = setting(bias=True)
    actual = fused(at, ForwardKL())
    assert not actual.ref_logps.requires_grad
    loss_of(at, actual).backward()
    for leaf in (at.hidden, at.head.weight, at.head.bias):
        assert leaf.grad is not None
    for leaf in (at.ref_hidden, at.ref_head.weight, at.ref_head.bias):
        assert leaf.grad is None


def test_a_head_that_policy_and_reference_share_gets_the_policys_gradient_alone():
    at = setting()
    at.ref_head = at.head
    expected = gradients(at, loss_of(at, dense(at, ForwardKL())))
    assert_same(gradients(at, loss_of(at, fused(at, ForwardKL(), chunk_size=3))), expected)


def test_without_a_reference():
    at = setting(bias=True)
    at.ref_hidden = at.ref_head = None
    actual = fused(at, None, chunk_size=4)
    logps = dense_logits(at.hidden, at.head).log_softmax(-1)[torch.arange(TOKENS), at.labels]
    assert_same(actual, (logps, torch.zeros(TOKENS), None))
    assert_same(gradients(at, loss_of(at, actual)), gradients(at, loss_of(at, (logps, None, None))))
    with pytest.raises(ValueError, match="a divergence needs a reference"):
        fused(at, ForwardKL())


@pytest.mark.parametrize("budget", [0, 2**30])
def test_no_weight_gradient_is_computed_for_a_frozen_head(budget, monkeypatch):
    at = setting(bias=True)
    (expected, *_) = gradients(at, loss_of(at, dense(at, ForwardKL())))
    at.head.weight.requires_grad_(False)
    at.head.bias.requires_grad_(False)
    asked = []
    monkeypatch.setattr(HeadGradient, "add", lambda gradient, *_: asked.append((gradient.weight, gradient.bias)))
    loss_of(at, fused(at, ForwardKL(), chunk_size=3, budget=budget)).backward()
    assert_same([at.hidden.grad], [expected])
    assert at.head.weight.grad is None
    assert at.head.bias.grad is None
    assert asked
    assert set(asked) == {(None, None)}


def test_a_trained_head_over_frozen_states():
    at = setting(bias=True)
    at.hidden.requires_grad_(False)
    actual, expected = (
        torch.autograd.grad(loss_of(at, statistic), [at.head.weight, at.head.bias])
        for statistic in (fused(at, ReverseKL(), chunk_size=3), dense(at, ReverseKL()))
    )
    assert_same(actual, expected)


@pytest.mark.parametrize("budget", [0, 2 * 4 * ENTRY_BYTES, 2**30])
def test_backward_twice_gives_the_same(budget):
    at = setting(bias=True, softcap=2.0)
    for divergence in (None, ForwardKL(), ReverseKL(), JensenShannon()):
        loss = loss_of(at, fused(at, divergence, chunk_size=4, budget=budget))
        once = gradients(at, loss, retain_graph=True)
        assert_same(gradients(at, loss, retain_graph=True), once, rtol=1e-13)
        assert_same(gradients(at, loss), once, rtol=1e-13)


def test_no_gradient_mode_gives_the_same_values():
    at = setting(bias=True)
    expected = fused(at, ForwardKL(), chunk_size=4)
    with torch.no_grad():
        actual = fused(at, ForwardKL(), chunk_size=4)
    assert not actual.logps.requires_grad
    assert_same(actual, expected)
