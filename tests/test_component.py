"""Shapings, losses, the regulariser and what every objective does with extreme log-ratios."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from prefopt import Objective, TokenBatch, masked_mean, masked_sum, zoo
from prefopt.component import PreferenceLoss, RewardShaping
from prefopt.losses import HingeLoss, LogisticLoss, SquaredLoss
from prefopt.regularizers import MaskL1
from prefopt.shapings import MeanShaping, PositiveShaping, SumShaping
from prefopt.weightings import SparseWeighting
from tests.batches import random_case, taken

LOSSES = [
    LogisticLoss(),
    LogisticLoss(label_smoothing=0.2, margin=1.5),
    HingeLoss(),
    HingeLoss(margin=3),
    SquaredLoss(),
]
SHAPINGS = [SumShaping(), MeanShaping(), PositiveShaping(), PositiveShaping(lam=0)]

NAN = math.nan
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
REWARDS = torch.tensor([[1.0, -4.0, 1.5, NAN], [2.0, NAN, 9.0, 9.0], [0.5, 1.5, NAN, NAN], [-1.0, -2.0, -3.0, -4.0]])
IS_CHOSEN = torch.tensor([True, True, False, False])


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_value(actual: Tensor, *expected: float, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), rtol=rtol, atol=1e-7)


@pytest.mark.parametrize(
    ("shaping", "expected"),
    [
        (SumShaping(), (-1.5, 2.0, 2.0, -10.0)),
        (MeanShaping(), (-0.5, 2.0, 1.0, -2.5)),
        # Of the chosen rows the first fell by 1.5; the rejected row that fell by 10 pays nothing.
        (PositiveShaping(lam=4), (-7.5, 2.0, 2.0, -10.0)),
        (PositiveShaping(lam=0), (-1.5, 2.0, 2.0, -10.0)),
    ],
)
def test_shapings_by_hand(shaping: RewardShaping, expected: tuple[float, ...]) -> None:
    by_value(shaping(REWARDS, MASK, IS_CHOSEN), *expected)


@pytest.mark.parametrize("shaping", SHAPINGS, ids=str)
def test_shapings_pass_no_gradient_to_padding(shaping: RewardShaping) -> None:
    rewards = REWARDS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(shaping(rewards, MASK, IS_CHOSEN).sum(), rewards)
    assert gradient.isfinite().all()
    assert (gradient[~MASK] == 0).all()
    assert (gradient[MASK] != 0).all()


def test_masked_sums_and_means() -> None:
    none = torch.zeros(1, 4, dtype=torch.bool)
    by_value(masked_sum(REWARDS, MASK), -1.5, 2, 2, -10)
    by_value(masked_mean(REWARDS, MASK), -0.5, 2, 1, -2.5)
    by_value(masked_mean(REWARDS[:1], none), 0)


@pytest.mark.parametrize(
    ("loss", "margin", "expected"),
    [
        (LogisticLoss(), 0.0, math.log(2)),
        (LogisticLoss(), 2.0, math.log1p(math.exp(-2))),
        (LogisticLoss(margin=3), 2.0, math.log1p(math.exp(1))),
        (LogisticLoss(label_smoothing=0.25), 2.0, 0.75 * math.log1p(math.exp(-2)) + 0.25 * math.log1p(math.exp(2))),
        (LogisticLoss(label_smoothing=0.25, margin=2), 2.0, math.log(2)),
        (HingeLoss(), 0.25, 0.75),
        (HingeLoss(), 1.5, 0.0),
        (HingeLoss(margin=4), -2.0, 6.0),
        (SquaredLoss(margin=5), 2.0, 9.0),
        (SquaredLoss(margin=5), 8.0, 9.0),
    ],
)
def test_losses_by_hand(loss: PreferenceLoss, margin: float, expected: float) -> None:
    by_value(taken(loss, torch.tensor([margin + 0.5, margin]), torch.tensor([0.5, 0.0])), expected, expected)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_losses_are_finite_at_extreme_margins(loss: PreferenceLoss, margin: float) -> None:
    chosen = torch.tensor([margin], requires_grad=True)
    value = taken(loss, chosen, torch.zeros(1))
    (gradient,) = torch.autograd.grad(value.sum(), chosen)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    if margin < 0:  # far on the wrong side every loss still pulls, which a saturated one would not
        assert gradient < -0.5
    elif not isinstance(loss, SquaredLoss):
        assert gradient == pytest.approx(getattr(loss, "label_smoothing", 0.0), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@settings(deadline=None, max_examples=50, derandomize=True)
@given(chosen=st.floats(-50, 50), rejected=st.floats(-50, 50), shift=st.floats(-50, 50))
def test_losses_depend_on_the_difference_alone(
    loss: PreferenceLoss, chosen: float, rejected: float, shift: float
) -> None:
    one = taken(loss, double(chosen), double(rejected))
    two = taken(loss, double(chosen + shift), double(rejected + shift))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    assert one >= 0


@settings(deadline=None, max_examples=50, derandomize=True)
@given(low=st.floats(-30, 30), step=st.floats(0.01, 30))
def test_logistic_and_hinge_never_grow_with_the_margin(low: float, step: float) -> None:
    margins, zero = double(low, low + step), double(0, 0)
    for loss in (LogisticLoss(), HingeLoss()):
        values = taken(loss, margins, zero)
        assert values[0] >= values[1]
    # A pair and its mirror differ by the margin itself.
    mirrored = taken(LogisticLoss(), zero, margins) - taken(LogisticLoss(), margins, zero)
    assert mirrored.tolist() == pytest.approx(margins.tolist())


@pytest.mark.parametrize(
    ("component", "fields"),
    [
        (LogisticLoss, {"label_smoothing": 0.5}),
        (LogisticLoss, {"label_smoothing": -0.1}),
        (HingeLoss, {"margin": 0}),
        (SquaredLoss, {"margin": -1}),
        (PositiveShaping, {"lam": -1}),
        (MaskL1, {"reward": -0.1}),
        (SparseWeighting, {"dropout": 1.0}),
    ],
)
def test_values_that_make_no_sense_are_refused(component: type, fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        component(**fields)


def test_components_are_values() -> None:
    assert LogisticLoss(margin=1) == LogisticLoss(margin=1.0)
    assert hash(LogisticLoss(margin=1)) == hash(LogisticLoss(margin=1.0))
    assert LogisticLoss() != LogisticLoss(margin=1)
    with pytest.raises(ValidationError, match="frozen"):
        LogisticLoss().margin = 2.0


def test_l1_charges_both_responses_of_a_pair() -> None:
    tokens = TokenBatch(torch.zeros(4, 4), torch.zeros(4, 4), MASK, torch.zeros(4, 4, dtype=torch.long))
    w = torch.where(MASK, torch.tensor([[1.0], [2.0], [3.0], [0.5]]), NAN)
    v = torch.where(MASK, 10.0, NAN)
    by_value(MaskL1(reward=0.1)(tokens, w, v), 0.1 * (3 * 1 + 2 * 3), 0.1 * (1 * 2 + 4 * 0.5))
    by_value(MaskL1(divergence=0.1)(tokens, w, v), 0.1 * 50, 0.1 * 50)
    by_value(MaskL1(reward=0.1, divergence=0.2)(tokens, w, v), 0.9 + 10, 0.4 + 10)
    by_value(MaskL1()(tokens, w, v), 0, 0)


def test_l1_pulls_every_weight_alike() -> None:
    tokens = TokenBatch(torch.zeros(4, 4), torch.zeros(4, 4), MASK, torch.zeros(4, 4, dtype=torch.long))
    w = torch.rand(4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(MaskL1(reward=0.3)(tokens, w, torch.zeros(4, 4)).sum(), w)
    torch.testing.assert_close(gradient, 0.3 * MASK)


@pytest.mark.parametrize("ratio", [-1e3, 1e3])
@pytest.mark.parametrize("name", zoo.ZOO)
def test_extreme_log_ratios_stay_finite(name: str, ratio: float) -> None:
    """A token at which the models differ by e^1000, in float32, in either response."""
    case = random_case(21, dtype=torch.float32)
    torch.manual_seed(0)
    objective = Objective(zoo.ZOO[name](), num_layers=3, hidden_size=5)
    for sign in (1, -1):
        side = torch.where(torch.arange(6) < 3, sign, -sign)[:, None]
        log_ratios = side * ratio * (torch.arange(8) % 2 == 0)
        logps = torch.where(case.mask, log_ratios.clamp(max=0) - 1, NAN).requires_grad_()
        ref_logps = torch.where(case.mask, -log_ratios.clamp(min=0) - 1, NAN)
        divergence = torch.where(case.mask, abs(ratio), NAN).requires_grad_()
        output = objective(case.tokens().replace(logps=logps, ref_logps=ref_logps, divergence=divergence))
        assert output.loss.isfinite()
        leaves = [logps, divergence, *objective.parameters()]
        for gradient in torch.autograd.grad(output.loss, leaves, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()
