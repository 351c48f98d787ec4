"""token_statistics against dense autograd, in float64 unless the precision is the point."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from prefopt.component import Divergence
from prefopt.divergences import AlphaDivergence, ForwardKL, JensenShannon, ReverseKL
from prefopt.scoring import Head, dense_statistics, statistics, token_statistics

TOKENS, HIDDEN, VOCABULARY = 11, 8, 17
ENTRY_BYTES = 8 * VOCABULARY


class SquaredDistance(Divergence):
    """sum_v (p_v - q_v)^2: what a plugin without a closed-form gradient brings."""

    name: Literal["squared_distance"] = "squared_distance"

    def __call__(self, logps, ref_logps):
        return (logps.exp() - ref_logps.exp()).square().sum(-1)


BUILT_IN = (ForwardKL(), ReverseKL(), JensenShannon(), AlphaDivergence(a=0.5), AlphaDivergence(a=0.2))
DIVERGENCES = (*BUILT_IN, SquaredDistance())
HEADS = (
    {},
    {"bias": True},
    {"scale": 0.4},
    {"softcap": 2.0},
    {"bias": True, "scale": 1.7, "softcap": 2.0},
)


def name_of(value):
    if isinstance(value, Divergence):
        return f"{value.name}-{value.a}" if isinstance(value, AlphaDivergence) else value.name
    return "-".join(value) or "plain" if isinstance(value, dict) else str(value)


def setting(*, bias=False, scale=1.0, softcap=None, spread=1.0, dtype=torch.float64, seed=0):
    """Leaves that take gradient, the reference's leaves, labels, and gradients that arrive from an objective."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape, spread=1.0):
        return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    hidden, ref_hidden = leaf(TOKENS, HIDDEN), leaf(TOKENS, HIDDEN)
    heads = [
        Head(leaf(VOCABULARY, HIDDEN, spread=spread), leaf(VOCABULARY) if bias else None, scale, softcap)
        for _ in range(2)
    ]
    labels = torch.randint(1, VOCABULARY, (TOKENS,), generator=generator)
    upstream = torch.randn(2, TOKENS, generator=generator, dtype=torch.float64)
    return SimpleNamespace(
        hidden=hidden, head=heads[0], ref_hidden=ref_hidden, ref_head=heads[1], labels=labels, upstream=upstream
    )


def dense_logits(hidden, head):
    logits = hidden @ head.weight.T
    logits = logits if head.bias is None else logits + head.bias
    logits = head.scale * logits
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def dense(at, divergence):
    log_probs = dense_logits(at.hidden, at.head).log_softmax(-1)
    ref_log_probs = dense_logits(at.ref_hidden, at.ref_head).detach().log_softmax(-1)
    tokens = torch.arange(TOKENS)
    values = None if divergence is None else divergence(log_probs, ref_log_probs)
    return log_probs[tokens, at.labels], ref_log_probs[tokens, at.labels], values


def fused(at, divergence, **options):
    return token_statistics(at.hidden, at.head, at.ref_hidden, at.ref_head, at.labels, divergence, **options)


def loss_of(at, found, terms=("logps", "divergence")):
    loss = 0
    if "logps" in terms:
        loss = loss + (at.upstream[0] * found[0]).sum()
    if found[2] is not None and "divergence" in terms:
        loss = loss + (at.upstream[1] * found[2]).sum()
    return loss


def gradients(at, loss, **options):
    leaves = [at.hidden, at.head.weight, *([] if at.head.bias is None else [at.head.bias])]
    return torch.autograd.grad(loss, leaves, **options)


def assert_same(found, expected, rtol=1e-9, atol=1e-12):
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, check_dtype=False)


@pytest.mark.parametrize("head", HEADS, ids=name_of)
@pytest.mark.parametrize("divergence", [None, *DIVERGENCES], ids=name_of)
def test_equals_dense_autograd_whatever_the_chunks_and_the_budget(divergence, head):
    at = setting(**head)
    expected = dense(at, divergence)
    expected_gradients = gradients(at, loss_of(at, expected))
    tiny = 2 * 3 * ENTRY_BYTES  # what one chunk of three tokens needs for both models
    for chunk_size, budget in itertools.product((1, 3, TOKENS, TOKENS + 5, None), (0, tiny, 2**30)):
        found = fused(at, divergence, chunk_size=chunk_size, budget=budget)
        assert_same(found, expected)
        assert_same(gradients(at, loss_of(at, found)), expected_gradients)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=name_of)
def test_dense_statistics_say_the_same(divergence):
    at = setting(bias=True, softcap=2.0)
    logits, ref_logits = dense_logits(at.hidden, at.head), dense_logits(at.ref_hidden, at.ref_head)
    found = dense_statistics(logits, ref_logits, at.labels, divergence)
    expected = fused(at, divergence, chunk_size=4)
    assert_same(found, expected)
    assert_same(gradients(at, loss_of(at, found)), gradients(at, loss_of(at, expected)))
    assert not found.ref_logps.requires_grad
    assert_same(dense_statistics(logits, None, at.labels), (expected.logps, torch.zeros(TOKENS), None))


@pytest.mark.parametrize("term", ["logps", "divergence"])
@pytest.mark.parametrize("budget", [0, 2**30])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=name_of)
def test_a_loss_may_read_one_statistic_only(divergence, budget, term):
    at = setting(bias=True, scale=0.7)
    found = gradients(at, loss_of(at, fused(at, divergence, chunk_size=4, budget=budget), (term,)))
    assert_same(found, gradients(at, loss_of(at, dense(at, divergence), (term,))))


def test_the_reference_never_gets_gradient():
    at = setting(bias=True)
    found = fused(at, ForwardKL())
    assert not found.ref_logps.requires_grad
    loss_of(at, found).backward()
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
    found = fused(at, None, chunk_size=4)
    logps = dense_logits(at.hidden, at.head).log_softmax(-1)[torch.arange(TOKENS), at.labels]
    assert_same(found, (logps, torch.zeros(TOKENS), None))
    assert_same(gradients(at, loss_of(at, found)), gradients(at, loss_of(at, (logps, None, None))))
    with pytest.raises(ValueError, match="a divergence needs a reference"):
        fused(at, ForwardKL())


@pytest.mark.parametrize("budget", [0, 2**30])
def test_no_weight_gradient_is_computed_for_a_frozen_head(budget, monkeypatch):
    at = setting(bias=True)
    (expected, *_) = gradients(at, loss_of(at, dense(at, ForwardKL())))
    at.head.weight.requires_grad_(False)
    at.head.bias.requires_grad_(False)
    monkeypatch.setattr(statistics, "_add_product", lambda *_: pytest.fail("the head is frozen"))
    loss_of(at, fused(at, ForwardKL(), chunk_size=3, budget=budget)).backward()
    assert_same([at.hidden.grad], [expected])
    assert at.head.weight.grad is None
    assert at.head.bias.grad is None


def test_a_trained_head_over_frozen_states():
    at = setting(bias=True)
    at.hidden.requires_grad_(False)
    found, expected = (
        torch.autograd.grad(loss_of(at, statistic), [at.head.weight, at.head.bias])
        for statistic in (fused(at, ReverseKL(), chunk_size=3), dense(at, ReverseKL()))
    )
    assert_same(found, expected)


@pytest.mark.parametrize("budget", [0, 2 * 4 * ENTRY_BYTES, 2**30])
def test_backward_twice_gives_the_same(budget):
    at = setting(bias=True, softcap=2.0)
    loss = loss_of(at, fused(at, JensenShannon(), chunk_size=4, budget=budget))
    once = gradients(at, loss, retain_graph=True)
    assert_same(gradients(at, loss, retain_graph=True), once, rtol=1e-13)
    assert_same(gradients(at, loss), once, rtol=1e-13)


def test_no_gradient_mode_gives_the_same_values():
    at = setting(bias=True)
    expected = fused(at, ForwardKL(), chunk_size=4)
    with torch.no_grad():
        found = fused(at, ForwardKL(), chunk_size=4)
    assert not found.logps.requires_grad
    assert_same(found, expected)
