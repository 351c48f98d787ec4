"""token_statistics where numbers are extreme or short: excluded entries, peaked logits, half precision, autocast."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from prefopt.component import ExactDivergence
from prefopt.divergences import AlphaDivergence, ForwardKL, JensenShannon, ReverseKL
from prefopt.scoring import token_statistics
from prefopt.scoring.lm_head.chunked_pass import DenseKernel
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.online_softmax import OnlineSoftmaxKernel
from prefopt.scoring.lm_head.whole_vocabulary import WholeVocabularyKernel
from tests.scoring.token_cases import (
    DIVERGENCES,
    TOKENS,
    assert_same,
    chunks_of,
    dense,
    dense_logits,
    fused,
    gradients,
    loss_of,
    name_of,
    setting,
)

STREAMED = (OnlineSoftmaxKernel, WholeVocabularyKernel)
EXCLUDED = 0  # never a label in `setting`
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES, ids=name_of)


def excluding(head, value):
    """The same head with the logit of one entry at `value`, which no hidden state can change where it is infinite."""
    with torch.no_grad():
        bias = head.bias.clone()
        bias[EXCLUDED] = value
    return replace(head, bias=bias.requires_grad_())


def without_entry(head):
    keep = torch.arange(len(head.weight)) != EXCLUDED
    weight, bias = (leaf.detach()[keep].requires_grad_() for leaf in (head.weight, head.bias))
    return replace(head, weight=weight, bias=bias)


def converted(at, dtype):
    """The same numbers, as far as the dtype can hold them, as new leaves."""

    def leaf(tensor):
        return None if tensor is None else tensor.detach().to(dtype).requires_grad_()

    heads = [replace(head, weight=leaf(head.weight), bias=leaf(head.bias)) for head in (at.head, at.ref_head)]
    return SimpleNamespace(
        hidden=leaf(at.hidden),
        head=heads[0],
        ref_hidden=leaf(at.ref_hidden),
        ref_head=heads[1],
        labels=at.labels,
        upstream=at.upstream,
    )


@pytest.mark.parametrize("budget", [0, 2**30])
@every_divergence
def test_an_entry_that_both_models_exclude_might_as_well_not_be_there(divergence, budget):
    at = setting(bias=True, scale=0.6)
    smaller = setting(bias=True, scale=0.6)
    smaller.head, smaller.ref_head = without_entry(at.head), without_entry(at.ref_head)
    smaller.labels = at.labels - 1
    expected = dense(smaller, divergence)
    expected_gradients = gradients(smaller, loss_of(smaller, expected))
    at.head, at.ref_head = excluding(at.head, -torch.inf), excluding(at.ref_head, -torch.inf)
    actual = fused(at, divergence, chunk_size=4, budget=budget)
    assert_same(actual, expected)
    d_hidden, *d_head = gradients(at, loss_of(at, actual))
    assert_same([d_hidden, *(gradient[1:] for gradient in d_head)], expected_gradients)
    for gradient in d_head:
        assert bool((gradient[EXCLUDED] == 0).all())


@pytest.mark.parametrize(
    ("side", "divergence"),
    [
        *(("policy", divergence) for divergence in (ReverseKL(), JensenShannon(), AlphaDivergence(a=0.3))),
        *(("reference", divergence) for divergence in (ForwardKL(), JensenShannon(), AlphaDivergence(a=0.3))),
    ],
    ids=name_of,
)
def test_an_entry_that_one_model_excludes(side, divergence):
    """Where the divergence stays finite it is the limit of a very unlikely entry: exp(-1e4) is 0 in float64 too."""

    def with_entry_at(value):
        at = setting(bias=True)
        name = "head" if side == "policy" else "ref_head"
        setattr(at, name, excluding(getattr(at, name), value))
        return at

    limit, at = with_entry_at(-1e4), with_entry_at(-torch.inf)
    expected, actual = dense(limit, divergence), fused(at, divergence, chunk_size=4)
    assert_same(actual, expected)
    assert_same(gradients(at, loss_of(at, actual)), gradients(limit, loss_of(limit, expected)))


def test_forward_kl_is_infinite_where_the_policy_excludes_what_the_reference_allows():
    at = setting(bias=True)
    at.head = excluding(at.head, -torch.inf)
    actual = fused(at, ForwardKL())
    assert bool((actual.divergence == torch.inf).all())
    assert bool(torch.isfinite(actual.logps).all())


class PlainReverseKL(ExactDivergence):
    """KL(p || q), whose gradient autograd takes."""

    name: Literal["plain_reverse_kl"] = "plain_reverse_kl"

    def __call__(self, logps, ref_logps):
        return (logps.exp() * (logps - ref_logps)).sum(-1)


@pytest.mark.parametrize(
    ("kernel", "divergence"),
    [
        *((kernel, divergence) for kernel in STREAMED for divergence in (ForwardKL(), ReverseKL())),
        (DenseKernel, PlainReverseKL()),
    ],
    ids=lambda value: getattr(value, "__name__", None) or name_of(value),
)
def test_an_infinite_divergence_of_weight_zero_leaves_the_gradient_alone(monkeypatch, kernel, divergence):
    """Weighed by 0 in silence, as by an objective, where that of every token is infinite."""
    at, excludes = setting(bias=True), "head" if divergence == ForwardKL() else "ref_head"
    setattr(at, excludes, excluding(getattr(at, excludes), -torch.inf))
    monkeypatch.setattr("prefopt.scoring.lm_head.token_statistics.OnlineSoftmaxKernel", kernel)
    actual = fused(at, divergence, chunk_size=4)
    assert bool(actual.divergence.isinf().all())
    silenced = (0 * torch.where(actual.divergence.isinf(), 0, actual.divergence)).sum()
    expected = gradients(at, loss_of(at, dense(at, None)))
    assert_same(gradients(at, loss_of(at, actual, ("logps",)) + silenced), expected)


def test_an_excluded_label_has_no_probability():
    at = setting(bias=True)
    at.head = excluding(at.head, -torch.inf)
    at.labels = at.labels.clone()
    at.labels[2] = EXCLUDED
    actual = fused(at, None)
    assert (actual.logps == -torch.inf).nonzero().flatten().tolist() == [2]


@every_divergence
def test_peaked_logits_stay_finite(divergence):
    """Logits hundreds apart, in float32, against the same numbers in float64."""
    at = setting(spread=40.0, dtype=torch.float32)
    exact = converted(at, torch.float64)
    spread = dense_logits(exact.hidden, exact.head).detach().aminmax(dim=-1)
    assert float((spread.max - spread.min).min()) > 200
    for head in (at.head, at.ref_head):  # softmax().log(), the naive way, does not stay finite here
        assert not bool(torch.isfinite(dense_logits(at.hidden, head).softmax(-1).log()).all())
    actual, expected = fused(at, divergence, chunk_size=4), dense(exact, divergence)
    for statistic in actual[:3]:
        assert bool(torch.isfinite(statistic).all())
    assert_same(actual, [value.float() for value in expected], rtol=1e-4, atol=1e-3)
    for ours, theirs in zip(
        gradients(at, loss_of(at, actual)), gradients(exact, loss_of(exact, expected)), strict=True
    ):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


@pytest.mark.parametrize("budget", [0, 2**30])
@every_divergence
def test_float32_is_close_to_float64(divergence, budget):
    exact = setting(bias=True, softcap=3.0)
    at = converted(exact, torch.float32)
    actual, expected = fused(at, divergence, chunk_size=4, budget=budget), dense(exact, divergence)
    assert {statistic.dtype for statistic in actual[:3]} == {torch.float32}
    assert_same(actual, [value.float() for value in expected], rtol=1e-5, atol=1e-5)
    expected_gradients = [gradient.float() for gradient in gradients(exact, loss_of(exact, expected))]
    assert_same(gradients(at, loss_of(at, actual)), expected_gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("budget", [0, 2**30])
@pytest.mark.parametrize("head", [{}, {"bias": True, "softcap": 3.0}], ids=name_of)
def test_half_precision_is_close_to_float32(head, budget):
    """The products are in bfloat16, which has 8 bits of mantissa; everything over the vocabulary is in float32."""
    at = setting(dtype=torch.bfloat16, **head)
    wide = converted(at, torch.float32)
    actual, expected = fused(at, ForwardKL(), chunk_size=4, budget=budget), dense(wide, ForwardKL())
    assert {statistic.dtype for statistic in actual[:3]} == {torch.float32}
    assert_same(actual, expected, rtol=0.02, atol=0.05)
    found_gradients = gradients(at, loss_of(at, actual))
    assert {gradient.dtype for gradient in found_gradients} == {torch.bfloat16}
    for ours, theirs in zip(found_gradients, gradients(wide, loss_of(wide, expected)), strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


@pytest.mark.slow
def test_half_precision_adds_up_the_weight_gradient_in_float32():
    """In bfloat16 sums stop growing: 256 + 1 is 256. Over many chunks only a float32 sum stays right."""
    count = 1024
    hidden = torch.ones(count, 2, dtype=torch.bfloat16)
    at = setting(dtype=torch.bfloat16)
    at.head = replace(at.head, weight=at.head.weight.detach()[:4, :2].contiguous().requires_grad_())
    labels = torch.zeros(count, dtype=torch.long)
    with chunks_of(1):
        actual = token_statistics(hidden, at.head, None, None, labels)
    (weight,) = torch.autograd.grad(actual.logps.sum(), [at.head.weight])
    probs = (hidden[:1].float() @ at.head.weight.detach().float().T).softmax(-1)[0]
    expected = count * (torch.eye(4)[0] - probs)[:, None].expand(4, 2)
    torch.testing.assert_close(weight.float(), expected, rtol=0.02, atol=0.02 * count)
    assert float(expected.abs().max()) > 300


@pytest.mark.parametrize("scale", [0.15, 0.25])
@pytest.mark.parametrize("divergence", [None, ForwardKL()], ids=name_of)
def test_half_precision_does_not_lose_the_gradient_of_confident_tokens(divergence, scale):
    """p - 1 at the label, where p is 0.9 or 0.999: rounded to bfloat16 as a difference, not in its parts."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, 64, generator=draw).bfloat16()
    labels = torch.randint(1000, (40,), generator=draw)
    hidden = (scale * weight[labels]).requires_grad_()
    head = Head(weight.requires_grad_())

    def gradients_in(dtype):
        leaves = hidden.detach().to(dtype).requires_grad_(), head.map(lambda tensor: tensor.detach().to(dtype))
        leaves[1].weight.requires_grad_()
        reference = [None, None] if divergence is None else [leaves[0].detach() * 0.9, leaves[1].map(torch.detach)]
        statistics = token_statistics(*leaves, *reference, labels, divergence)
        return torch.autograd.grad(statistics.logps.sum(), [leaves[0], leaves[1].weight])

    for half, exact in zip(gradients_in(torch.bfloat16), gradients_in(torch.float64), strict=True):
        assert float((half - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("divergence", [None, ForwardKL(), JensenShannon()], ids=name_of)
def test_under_autocast(divergence):
    at = setting(bias=True, dtype=torch.float32)
    expected = dense(at, divergence)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = fused(at, divergence, chunk_size=4)
        loss = loss_of(at, actual)
    assert {statistic.dtype for statistic in actual if statistic is not None} == {torch.float32}
    assert_same(actual, expected, rtol=0.02, atol=0.05)
    assert not torch.allclose(actual.logps, expected[0], rtol=0, atol=1e-3)  # the products did run in half precision
    for ours, theirs in zip(gradients(at, loss), gradients(at, loss_of(at, expected)), strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_a_wider_reference_than_policy():
    at = setting(bias=True, dtype=torch.float32)
    wide = converted(at, torch.float64)
    expected = fused(at, ForwardKL(), chunk_size=TOKENS)
    at.ref_hidden, at.ref_head = wide.ref_hidden, wide.ref_head
    actual = fused(at, ForwardKL(), chunk_size=TOKENS)
    assert_same(actual, expected, rtol=1e-5, atol=1e-5)
    assert_same(gradients(at, loss_of(at, actual)), gradients(at, loss_of(at, expected)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [1e-5, 1e-3, 1e-1])
def test_small_divergences_are_exact_in_float32(step):
    """Near the reference a KL is a small difference of large numbers: nearer to float64 than from log_softmax."""
    draw = torch.Generator().manual_seed(0)
    weight, hidden, noise = (torch.randn(size, 32, generator=draw) for size in (20_000, 16, 16))
    weight *= 0.3
    labels, other = torch.arange(16), hidden + step * noise
    wide = [tensor.double() for tensor in (hidden, weight, other)]
    exact = token_statistics(wide[0], Head(wide[1]), wide[2], Head(wide[1]), labels, ForwardKL())
    actual = token_statistics(hidden, Head(weight), other, Head(weight), labels, ForwardKL())
    dense = ForwardKL()((hidden @ weight.T).log_softmax(-1), (other @ weight.T).log_softmax(-1))
    assert exact.divergence is not None
    assert actual.divergence is not None
    errors = [(tensor - exact.divergence).abs().mean() for tensor in (actual.divergence, dense)]
    assert errors[0] < 1e-7
    assert errors[0] < errors[1]
