"""Divergences: their formulas over the vocabulary, their closed-form gradients, and impossible tokens. A new
divergence is tried unasked on what needs no formula; its value is by hand in `dense`, or in its row's in tests/zoo.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from prefopt.component import ExactDivergence
from prefopt.divergences import AlphaDivergence, ForwardKL, JensenShannon, ReverseKL, TotalVariation
from tests.built_in import built_in, unlisted, without_formula

ALPHAS = [AlphaDivergence(), AlphaDivergence(a=0.1), AlphaDivergence(a=0.9)]
ALL = [ForwardKL(), ReverseKL(), JensenShannon(), *ALPHAS, TotalVariation()]
UNLISTED = unlisted(ExactDivergence, ALL)
each_listed = pytest.mark.parametrize("divergence", ALL, ids=str)
each_divergence = pytest.mark.parametrize("divergence", [*ALL, *UNLISTED], ids=str)
INF = math.inf

LOGITS = arrays("float64", (2, 6), elements=st.floats(-20, 20, width=16))


def log_probs(*logits: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(logits, dtype=dtype).log_softmax(-1)


def dense(divergence: ExactDivergence, p: list[float], q: list[float]) -> float:
    """The formula, entry by entry, for distributions without zeros; p the policy's, q the reference's."""
    pairs = list(zip(p, q, strict=True))
    match divergence:
        case ForwardKL():
            return sum(b * math.log(b / a) for a, b in pairs)
        case ReverseKL():
            return sum(a * math.log(a / b) for a, b in pairs)
        case JensenShannon():
            return sum(a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b)) for a, b in pairs) / 2
        case AlphaDivergence(a=alpha):
            return (1 - sum(b**alpha * a ** (1 - alpha) for a, b in pairs)) / (alpha * (1 - alpha))
        case TotalVariation():
            return sum(max(a - b, 0) for a, b in pairs)
    raise AssertionError(f"no formula for {divergence!r}")


def test_every_built_in_divergence_is_tested() -> None:
    assert without_formula(ExactDivergence, ALL, lambda row: row.exact_divergence) == set()
    assert {type(divergence) for divergence in ALL} <= built_in(ExactDivergence)


@each_listed
@settings(deadline=None, max_examples=40, derandomize=True)
@given(logits=LOGITS)
def test_value_and_gradient_follow_the_formula(divergence: ExactDivergence, logits: object) -> None:
    logps, ref_logps = torch.tensor(logits).log_softmax(-1)
    value = divergence(logps, ref_logps)
    expected = dense(divergence, logps.exp().tolist(), ref_logps.exp().tolist())
    assert value >= 0
    assert float(value) == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assume(not isinstance(divergence, TotalVariation) or bool((logps != ref_logps).all()))  # where it has a gradient
    closed = divergence.logit_gradient(logps, ref_logps, value)
    torch.testing.assert_close(closed, ExactDivergence.logit_gradient(divergence, logps, ref_logps, value))


@each_divergence
def test_gradient_matches_finite_differences(divergence: ExactDivergence) -> None:
    """The closed form against the values alone, so that a mistake in both gradients would still show."""
    draw = torch.Generator().manual_seed(0)
    logits, ref = torch.randn(2, 3, 5, generator=draw, dtype=torch.float64)
    ref_logps = ref.log_softmax(-1)

    def value(z: Tensor) -> Tensor:
        return divergence(z.log_softmax(-1), ref_logps)

    closed = divergence.logit_gradient(logits.log_softmax(-1), ref_logps, value(logits))
    step = 1e-5
    for v in range(5):
        nudge = torch.zeros_like(logits)
        nudge[:, v] = step
        slope = (value(logits + nudge) - value(logits - nudge)) / (2 * step)
        torch.testing.assert_close(closed[:, v], slope, rtol=1e-6, atol=1e-9)


@each_divergence
def test_zero_if_and_only_if_equal(divergence: ExactDivergence) -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logps, nudge = logits.log_softmax(-1), torch.zeros(50, dtype=torch.float64)
    nudge[7] = 0.01
    torch.testing.assert_close(divergence(logps, logps), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (divergence(logps, (logits + nudge).log_softmax(-1)) > 1e-8).all()
    # Adding a constant to all logits is no change of the distribution.
    assert (divergence(logps, (logits + 3).log_softmax(-1)) < 1e-13).all()


@each_divergence
def test_equal_models_give_exactly_zero_in_float32(divergence: ExactDivergence) -> None:
    logps = (3 * torch.randn(8, 1000, generator=torch.Generator().manual_seed(1))).log_softmax(-1)
    value = divergence(logps, logps.clone())
    assert value.eq(0).all()
    assert divergence.logit_gradient(logps, logps.clone(), value).eq(0).all()


@pytest.mark.parametrize("step", [1e-3, 0.03, 1.0])
@pytest.mark.parametrize("divergence", [*ALL, AlphaDivergence(a=1e-3), AlphaDivergence(a=0.999)], ids=str)
def test_float32_agrees_with_float64(divergence: ExactDivergence, step: float) -> None:
    """Where terms are of second order, the value carries no rounding of a normaliser, which the KLs and total variation
    do."""
    draw = torch.Generator().manual_seed(2)
    ref, noise = torch.randn(2, 8, 8000, generator=draw)
    logits, ref = 3 * ref + step * noise, 3 * ref
    logps, ref_logps = (z.double().log_softmax(-1) for z in (logits, ref))
    expected = divergence(logps, ref_logps)
    rounded = logits.log_softmax(-1), ref.log_softmax(-1)
    value = divergence(*rounded)
    assert (value >= 0).all()
    second_order = isinstance(divergence, AlphaDivergence | JensenShannon)
    slack = 1e-7 * step + 2e-6 * float(expected.max()) if second_order else 3e-6
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=slack)
    gradient = divergence.logit_gradient(logps.clone(), ref_logps, expected)
    closed = divergence.logit_gradient(*rounded, value).double()
    # The difference of two logarithms of 10 carries their rounding, 5e-7.
    slack = max(3e-5, 3e-6 / step) * float(gradient.abs().max())
    torch.testing.assert_close(closed, gradient, rtol=0, atol=slack)


@pytest.mark.parametrize(
    ("logps", "ref_logps", "infinite"),
    [
        pytest.param(log_probs(0, 1, -INF), log_probs(0.5, 0, 2), {"forward_kl"}, id="policy excludes"),
        pytest.param(log_probs(0, 1, 0.3), log_probs(0.5, 0, -INF), {"reverse_kl"}, id="reference excludes"),
        pytest.param(log_probs(0, 1, -INF), log_probs(0.5, 0, -INF), set(), id="both exclude the same"),
        pytest.param(log_probs(0, 1, -INF), log_probs(-INF, 0, 1), {"forward_kl", "reverse_kl"}, id="each its own"),
        pytest.param(log_probs(0, -INF, -INF), log_probs(-INF, 0, 1), {"forward_kl", "reverse_kl"}, id="disjoint"),
    ],
)
@each_listed
def test_impossible_tokens(divergence: ExactDivergence, logps: Tensor, ref_logps: Tensor, infinite: set[str]) -> None:
    value = divergence(logps, ref_logps)
    assert not value.isnan()
    assert bool(value.isinf()) == (divergence.name in infinite)
    closed = divergence.logit_gradient(logps, ref_logps, value)
    if not value.isinf():
        assert closed.isfinite().all()
        assert closed[logps == -INF].eq(0).all()
        if (logps > -INF).logical_and(ref_logps > -INF).any():  # the logarithm of no overlap has no derivative
            automatic = ExactDivergence.logit_gradient(divergence, logps, ref_logps, value)
            torch.testing.assert_close(closed, automatic, msg=lambda text: f"automatic gradient: {text}")


def test_bounds_of_disjoint_distributions() -> None:
    logps, ref_logps = log_probs(0, -INF, -INF), log_probs(-INF, 0, 1)
    assert float(JensenShannon()(logps, ref_logps)) == pytest.approx(math.log(2), rel=1e-12)
    assert float(AlphaDivergence(a=0.2)(logps, ref_logps)) == pytest.approx(1 / (0.2 * 0.8), rel=1e-12)
    assert float(TotalVariation()(logps, ref_logps)) == pytest.approx(1, rel=1e-12)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(logits=LOGITS)
def test_total_variation_is_a_bounded_distance_below_both_kls(logits: object) -> None:
    logps, ref_logps = torch.tensor(logits).log_softmax(-1)
    distance = TotalVariation()(logps, ref_logps)
    assert distance <= 1 + 1e-12
    assert distance == TotalVariation()(ref_logps, logps)
    for kl in (ForwardKL(), ReverseKL()):
        assert distance**2 <= kl(logps, ref_logps) / 2 + 1e-12, "Pinsker's inequality"


def test_total_variation_by_hand() -> None:
    """(0.5, 0.3, 0.2) and (0.2, 0.3, 0.5): the mass that has to move; a tie takes no side."""
    logps, ref_logps = log_probs(*map(math.log, (0.5, 0.3, 0.2))), log_probs(*map(math.log, (0.2, 0.3, 0.5)))
    value = TotalVariation()(logps, ref_logps)
    assert float(value) == pytest.approx(0.3, rel=1e-14)
    by_hand = torch.tensor([0.5 * (1 - 0.3), 0.3 * (0 - 0.3), 0.2 * (-1 - 0.3)], dtype=torch.float64) / 2
    exact = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.25, 0.25, 0.5]).log()  # whose tie is one of floats
    torch.testing.assert_close(TotalVariation().logit_gradient(logps, ref_logps, value)[[0, 2]], by_hand[[0, 2]])
    tied = TotalVariation().logit_gradient(*exact, TotalVariation()(*exact))
    torch.testing.assert_close(tied, torch.tensor([0.5 * 0.75, 0.25 * -0.25, 0.25 * -1.25]) / 2)


@each_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_peaked_logits_give_neither_nan_nor_a_negative_value(divergence: ExactDivergence, dtype: torch.dtype) -> None:
    logps = log_probs(0, 1000, -1000, 5, dtype=dtype)
    for ref_logps in (log_probs(1000, 0, 0, 0, dtype=dtype), log_probs(1, 1, 1, 1, dtype=dtype), logps):
        value = divergence(logps, ref_logps)
        assert value.isfinite()
        assert value >= 0
        assert divergence.logit_gradient(logps, ref_logps, value).isfinite().all()


def test_alpha_tends_to_the_two_kls() -> None:
    logits, ref = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logps, ref_logps = logits.log_softmax(-1), ref.log_softmax(-1)
    for a, limit in ((1e-6, ReverseKL()), (1 - 1e-6, ForwardKL())):
        near, value = AlphaDivergence(a=a)(logps, ref_logps), limit(logps, ref_logps)
        torch.testing.assert_close(near, value, rtol=1e-4, atol=1e-6)
        gradient = AlphaDivergence(a=a).logit_gradient(logps, ref_logps, near)
        torch.testing.assert_close(gradient, limit.logit_gradient(logps, ref_logps, value), rtol=1e-4, atol=1e-5)


def test_the_kls_are_one_another_with_the_models_exchanged() -> None:
    logps, ref_logps = log_probs(0, 1, 2), log_probs(3, 1, 0)
    assert ForwardKL()(logps, ref_logps) == ReverseKL()(ref_logps, logps)
    assert JensenShannon()(logps, ref_logps) == pytest.approx(float(JensenShannon()(ref_logps, logps)), rel=1e-14)
    assert AlphaDivergence(a=0.3)(logps, ref_logps) == pytest.approx(
        float(AlphaDivergence(a=0.7)(ref_logps, logps)), rel=1e-12
    )
    assert ForwardKL()(logps, ref_logps) != ReverseKL()(logps, ref_logps)


@each_divergence
def test_a_nan_is_never_silenced(divergence: ExactDivergence) -> None:
    broken = torch.tensor([0.0, math.nan, 1.0]).log_softmax(-1)
    good = torch.tensor([0.0, 2.0, -INF]).log_softmax(-1)
    for logps, ref_logps in ((broken, good), (good, broken)):
        assert divergence(logps, ref_logps).isnan()
        assert divergence(logps.clone().requires_grad_(), ref_logps).isnan()
