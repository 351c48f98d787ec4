"""The shapings and the regulariser beyond those of tests/test_component.py, and the stable functions beneath them.
A new shaping is tried at its extremes unasked; its value is by hand here, or in its row's formula in tests/zoo.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefopt import TokenBatch
from prefopt.component import RewardShaping
from prefopt.regularizers import NegativeLogLikelihood
from prefopt.shapings import (
    AlphaShaping,
    ForwardKLShaping,
    JensenShannonShaping,
    LogOddsShaping,
    PositiveShaping,
    SumShaping,
)
from prefopt.stable import capped_exp, log1mexp
from tests import test_component
from tests.built_in import built_in, unlisted, without_formula
from tests.test_component import IS_CHOSEN, MASK, NAN, REWARDS, by_value, double

F_DIVERGENCES = [ForwardKLShaping(), JensenShannonShaping(), AlphaShaping(), AlphaShaping(a=0.9), AlphaShaping(a=0)]
SHAPINGS = [*F_DIVERGENCES, ForwardKLShaping(cap=5), LogOddsShaping()]
UNLISTED = unlisted(RewardShaping, [*SHAPINGS, *test_component.SHAPINGS])
each_shaping = pytest.mark.parametrize("shaping", [*SHAPINGS, *UNLISTED], ids=str)

SUMS = (-1.5, 2.0, 2.0, -10.0)  # of REWARDS, row by row
LOGPS = torch.tensor([[-1.0, -4.0, -1.5, NAN], [-2.0, NAN, 9, 9], [-0.5, -1.5, NAN, NAN], [-1.0, -2.0, -3.0, -4.0]])


def test_every_built_in_shaping_is_tested() -> None:
    listed = [*SHAPINGS, *test_component.SHAPINGS]
    assert without_formula(RewardShaping, listed, lambda row: row.shaping) == set()
    assert {type(shaping) for shaping in listed} <= built_in(RewardShaping)


@pytest.mark.parametrize(
    ("shaping", "expected"),
    [
        (ForwardKLShaping(), [1 - math.exp(-u) for u in SUMS]),
        (JensenShannonShaping(), [math.log(2 / (1 + math.exp(-u))) for u in SUMS]),
        (AlphaShaping(a=0.5), [2 - 2 * math.exp(-u / 2) for u in SUMS]),
        (AlphaShaping(a=0), [1 - math.exp(-u) for u in SUMS]),
        # exp(10) goes on from exp(4) as 1 + 10 - 4 times that.
        (ForwardKLShaping(cap=4), [*(1 - math.exp(-u) for u in SUMS[:3]), 1 - 7 * math.exp(4)]),
        (AlphaShaping(a=0.5, cap=4), [*(2 - 2 * math.exp(-u / 2) for u in SUMS[:3]), 2 - 2 * 2 * math.exp(4)]),
    ],
    ids=str,
)
def test_f_divergence_shapings_by_hand(shaping: RewardShaping, expected: list[float]) -> None:
    by_value(shaping(REWARDS, MASK, IS_CHOSEN), *expected)
    assert torch.equal(shaping(REWARDS, MASK, IS_CHOSEN), shaping(REWARDS, MASK, ~IS_CHOSEN))


def test_log_odds_by_hand() -> None:
    odds = [math.exp(m) / (1 - math.exp(m)) for m in (-6.5 / 3, -2.0, -1.0, -2.5)]
    by_value(LogOddsShaping()(LOGPS, MASK, IS_CHOSEN), *map(math.log, odds))


@each_shaping
def test_shapings_pass_no_gradient_to_padding(shaping: RewardShaping) -> None:
    rewards = LOGPS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(shaping(rewards, MASK, IS_CHOSEN).sum(), rewards)
    assert (gradient[~MASK] == 0).all()
    assert gradient.isfinite().all()
    assert shaping in UNLISTED or (gradient[MASK] > 0).all()


@each_shaping
@pytest.mark.parametrize("u", [-1e3, -90.0, -1e-9, 90.0, 1e3])
def test_shapings_are_finite_in_float32(shaping: RewardShaping, u: float) -> None:
    if isinstance(shaping, LogOddsShaping):  # takes log-probabilities
        u = -abs(u)
    rewards = torch.full((2, 1), u, requires_grad=True)
    value = shaping(rewards, torch.ones(2, 1, dtype=torch.bool), IS_CHOSEN[1:3])
    (gradient,) = torch.autograd.grad(value.sum(), rewards)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    if u <= -90 and shaping not in UNLISTED:  # the cap keeps on pulling, at a steady slope, and the others never stop
        assert (gradient > 0.5).all()


@pytest.mark.parametrize("shaping", F_DIVERGENCES, ids=str)
@settings(deadline=None, max_examples=50, derandomize=True)
@given(u=st.floats(-100, 30), step=st.floats(1e-3, 10))
def test_f_divergence_shapings_grow_and_are_zero_at_the_reference(
    shaping: RewardShaping, u: float, step: float
) -> None:
    low, high, zero = shaping(double(u, u + step, 0)[:, None], torch.ones(3, 1, dtype=torch.bool), torch.ones(3))
    assert low < high or u > 20  # past there 1 - exp(-u) is 1, to the last digit
    assert abs(zero) < 1e-15


def test_alpha_lies_between_the_forward_kl_and_the_reverse() -> None:
    rewards = REWARDS.double()
    by_alpha = {a: AlphaShaping(a=a)(rewards, MASK, IS_CHOSEN) for a in (0.0, 1 - 1e-7)}
    torch.testing.assert_close(by_alpha[0.0], ForwardKLShaping()(rewards, MASK, IS_CHOSEN))
    torch.testing.assert_close(by_alpha[1 - 1e-7], SumShaping()(rewards, MASK, IS_CHOSEN), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cap", [0.5, 4.0, 30.0])
def test_capped_exp_and_its_slope_have_no_step_at_the_cap(cap: float, dtype: torch.dtype) -> None:
    tiny = 4 * cap * torch.finfo(dtype).eps
    x = torch.tensor([cap - 1, cap - tiny, cap, cap + tiny, cap + 2, 1e3], dtype=dtype, requires_grad=True)
    value = capped_exp(x, cap)
    (slope,) = torch.autograd.grad(value.sum(), x)
    at_cap = math.exp(cap)
    near = 3 * tiny
    assert value.detach().tolist()[1:4] == pytest.approx([at_cap] * 3, rel=near)
    assert slope.tolist()[1:4] == pytest.approx([at_cap] * 3, rel=near)
    assert (value.diff() >= 0).all()
    assert value.detach().tolist()[0] == pytest.approx(math.exp(cap - 1), rel=1e-6)
    assert value.detach().tolist()[4:] == pytest.approx([3 * at_cap, (1 + 1e3 - cap) * at_cap], rel=1e-6)
    assert slope.tolist()[4:] == pytest.approx([at_cap] * 2, rel=1e-6)


def exact_log1mexp(x: float) -> float:
    """In 400 decimal digits, enough for 1 - exp(-1e-300)."""
    with localcontext() as context:
        context.prec = 400
        return float((1 - Decimal(x).exp()).ln())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mexp_is_accurate_near_zero_and_far_from_it(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e-30, -1e-12, -3e-8, -1e-3, -0.5, -0.69, -0.7, -1, -5, -20, -80], dtype=dtype)
    expected = [exact_log1mexp(value) for value in x.tolist()]
    assert log1mexp(x).tolist() == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mexp_has_a_finite_gradient_up_to_zero(dtype: torch.dtype) -> None:
    """Where float32 rounds exp(x) to 1, log1p(-exp(x)) has a slope of 1 / 0, which must not come in."""
    x = torch.tensor([-1e4, -0.7, -0.69, -1e-3, -3e-8, -1e-12, -1e-30, 0.0], dtype=dtype, requires_grad=True)
    value = log1mexp(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all()
    expected = [-1 / math.expm1(-logp) for logp in x.tolist()[1:-1]]
    assert slope.tolist()[0] == 0
    assert slope.tolist()[1:-1] == pytest.approx(expected, rel=1e-6)
    assert slope[-1] == 0  # a probability of 1 has infinite odds; here it pulls at nothing


def likelihood_batch() -> TokenBatch:
    return TokenBatch(LOGPS.clone().requires_grad_(), torch.zeros(4, 4), MASK, torch.zeros(4, 4, dtype=torch.long))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (6.5 / 3, 2.0)),
        ({"weight": 0.5}, (6.5 / 6, 1.0)),
        ({"reduction": "sum"}, (6.5, 2.0)),
        ({"reduction": "sum", "weight": 2}, (13.0, 4.0)),
        ({"weight": 0}, (0.0, 0.0)),
    ],
)
def test_negative_log_likelihood_by_hand(fields: dict[str, object], expected: tuple[float, float]) -> None:
    tokens, rubbish = likelihood_batch(), torch.full((4, 4), NAN)
    value = NegativeLogLikelihood(**fields)(tokens, rubbish, rubbish)
    by_value(value, *expected)
    (gradient,) = torch.autograd.grad(value.sum(), tokens.logps)
    assert (gradient[2:] == 0).all(), "the rejected responses are no one's target"
    assert (gradient[~MASK] == 0).all()
    lengths = (3.0, 1.0) if fields.get("reduction") != "sum" else (1.0, 1.0)
    slopes = [-fields.get("weight", 1.0) / length for length in lengths]
    by_value(gradient[[0, 0, 0, 1], [0, 1, 2, 0]], slopes[0], slopes[0], slopes[0], slopes[1])


@pytest.mark.parametrize(
    ("component", "fields"),
    [
        (AlphaShaping, {"a": 1}),
        (AlphaShaping, {"a": -0.1}),
        (AlphaShaping, {"cap": 0}),
        (ForwardKLShaping, {"cap": 0}),
        (PositiveShaping, {"lam": -1}),
        (NegativeLogLikelihood, {"weight": -1}),
        (NegativeLogLikelihood, {"reduction": "median"}),
    ],
)
def test_values_that_make_no_sense_are_refused(component: type, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        component(**fields)
