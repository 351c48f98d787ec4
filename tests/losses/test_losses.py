"""The preference losses beyond logistic, hinge and squared, which tests/test_component.py has: values by hand, extremes
and coupling. A new loss is tried at its extremes and for coupling unasked; its value is by hand here, or in its row's
formula in tests/zoo/test_papers_losses.py.
"""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefopt import ObjectiveConfig
from prefopt.component import PreferenceLoss, Signal
from prefopt.losses import (
    AotLoss,
    AotPairedLoss,
    ApoDownLoss,
    ApoZeroLoss,
    BcoLoss,
    BcoPairLoss,
    DiscoPopLoss,
    ExoLoss,
    HingeLoss,
    LogisticLoss,
    MixtureLoss,
    NcaLoss,
    OffsetLoss,
    OnPolicyWeightedLoss,
    RobustLoss,
    SppoLoss,
    SquaredLoss,
    TokenRewardLoss,
    WeightedLoss,
)
from tests import test_component
from tests.batches import taken
from tests.built_in import built_in, unlisted, without_formula
from tests.test_component import by_value, double

UNBOUNDED = [RobustLoss(), RobustLoss(label_smoothing=0.3)]
OF_THE_MARGIN = [*UNBOUNDED, ExoLoss(), ExoLoss(label_smoothing=0.3), DiscoPopLoss(), DiscoPopLoss(tau=0.9)]
OF_THE_REWARDS = [NcaLoss(), BcoPairLoss(), SppoLoss(), ApoZeroLoss(), ApoDownLoss()]
BASELINE = MixtureLoss(losses=(BcoLoss(), LogisticLoss()), weights=(1, 0.5))
COUPLED = [
    *(AotLoss(), AotLoss(label_smoothing=0.2), AotPairedLoss(), AotPairedLoss(label_smoothing=0.2), BcoLoss()),
    *(MixtureLoss(losses=(HingeLoss(), AotLoss()), weights=(1, 1)), BASELINE),
]
LOSSES = [*OF_THE_MARGIN, *OF_THE_REWARDS, *COUPLED, MixtureLoss(losses=(HingeLoss(), NcaLoss()), weights=(2, 0.5))]
OF_MORE = [
    OffsetLoss(),
    *(held(loss=LogisticLoss()) for held in (WeightedLoss, OnPolicyWeightedLoss, TokenRewardLoss)),
]
"""Those of tests/losses/test_losses_of_more.py."""
UNLISTED = [
    loss
    for loss in unlisted(PreferenceLoss, [*LOSSES, *OF_MORE, *test_component.LOSSES])
    if not loss.columns and loss.requires <= {Signal.REF_LOGPS}
]
each_loss = pytest.mark.parametrize("loss", [*LOSSES, *UNLISTED], ids=str)

LN2 = math.log(2)
REWARD = st.floats(-50, 50)


def logistic(d: float) -> float:
    return math.log1p(math.exp(-d))


def sigmoid(d: float) -> float:
    return 1 / (1 + math.exp(-d))


def test_every_built_in_loss_is_tested() -> None:
    listed = [*LOSSES, *OF_MORE, *test_component.LOSSES]
    assert without_formula(PreferenceLoss, listed, lambda row: row.loss) == set()
    assert {type(loss) for loss in listed} <= built_in(PreferenceLoss)


@pytest.mark.parametrize(
    ("loss", "chosen", "rejected", "expected"),
    [
        (RobustLoss(label_smoothing=0), 2.0, 0.5, logistic(1.5)),
        (RobustLoss(label_smoothing=0.25), 0.5, 0.5, LN2),
        (RobustLoss(label_smoothing=0.25), 2.0, 0.5, (0.75 * logistic(1.5) - 0.25 * logistic(-1.5)) / 0.5),
        (ExoLoss(label_smoothing=0.25), 1.0, 1.0, 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)),
        (ExoLoss(label_smoothing=0.25), math.log(3), 0.0, 0.0),  # the policy says 3/4, and so does the label
        (ExoLoss(label_smoothing=0.25), 0.0, math.log(3), 0.25 * math.log(1 / 3) + 0.75 * math.log(3)),
        (DiscoPopLoss(), 0.5, 0.5, (LN2 + 1) / 2),
        (DiscoPopLoss(tau=0.5), 1.5, 0.5, (1 - sigmoid(2)) * logistic(1) + sigmoid(2) * math.exp(-1)),
        (DiscoPopLoss(tau=0.5), 0.5, 1.5, (1 - sigmoid(-2)) * logistic(-1) + sigmoid(-2) * math.exp(1)),
        (NcaLoss(), 0.0, 0.0, 2 * LN2),
        (NcaLoss(), 1.0, -2.0, logistic(1) + logistic(-1) / 2 + logistic(2) / 2),
        (BcoPairLoss(), 0.0, 0.0, 2 * LN2),
        (BcoPairLoss(), 1.0, -2.0, logistic(1) + logistic(2)),
        (SppoLoss(target=5), 3.0, -4.0, 4.0 + 1.0),
        (SppoLoss(target=5), 0.0, 0.0, 50.0),
        (ApoZeroLoss(), 0.0, 0.0, 1.0),
        (ApoZeroLoss(), 1.0, -2.0, 1 - sigmoid(1) + sigmoid(-2)),
        (ApoDownLoss(), 0.0, 0.0, 1.0),
        (ApoDownLoss(), -1.0, -2.0, sigmoid(-1) + 1 - sigmoid(1)),
        (AotLoss(), 2.0, 0.5, logistic(1.5)),
        (AotPairedLoss(label_smoothing=0.25), 2.0, 0.5, 0.75 * logistic(1.5) + 0.25 * logistic(-1.5)),
        (BcoLoss(), 1.0, -2.0, logistic(1.5) + logistic(1.5)),  # around their mean, -1/2
        (AotLoss(label_smoothing=0.25), 2.0, 0.5, 0.75 * logistic(1.5) + 0.25 * logistic(-1.5)),
        (MixtureLoss(losses=(HingeLoss(), SquaredLoss(margin=1)), weights=(2, 0.5)), 0.5, 1.0, 2 * 1.5 + 0.5 * 2.25),
    ],
    ids=str,
)
def test_losses_by_hand(loss: PreferenceLoss, chosen: float, rejected: float, expected: float) -> None:
    by_value(taken(loss, double(chosen), double(rejected)), expected, rtol=1e-13)
    by_value(taken(loss, torch.tensor([chosen] * 2), torch.tensor([rejected] * 2)), expected, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_loss
def test_losses_are_finite_at_extreme_rewards(loss: PreferenceLoss, dtype: torch.dtype) -> None:
    extremes = list(product((-1e4, -200.0, 0.0, 200.0, 1e4), repeat=2))
    chosen, rejected = torch.tensor(extremes, dtype=dtype).unbind(1)
    chosen.requires_grad_()
    rejected.requires_grad_()
    value = taken(loss, chosen, rejected)
    assert value.isfinite().all()
    for gradient in torch.autograd.grad(value.sum(), (chosen, rejected)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "loss", [*OF_THE_MARGIN, AotLoss(), MixtureLoss(losses=(DiscoPopLoss(),), weights=(1,))], ids=str
)
def test_no_loss_goes_flat_on_a_pair_that_is_far_wrong(loss: PreferenceLoss) -> None:
    chosen = torch.tensor([-1e4], requires_grad=True)
    (gradient,) = torch.autograd.grad(taken(loss, chosen, torch.zeros(1)).sum(), chosen)
    saturates = isinstance(loss, ExoLoss)  # the reverse KL does: its slope there is s (1 - s) times a logarithm
    assert gradient == 0 if saturates else gradient < -0.5


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != DiscoPopLoss()], ids=str)
def test_a_larger_margin_is_better_at_zero(loss: PreferenceLoss) -> None:
    chosen, rejected = double(0).requires_grad_(), double(0).requires_grad_()
    of_chosen, of_rejected = torch.autograd.grad(taken(loss, chosen, rejected).sum(), (chosen, rejected))
    assert of_chosen - of_rejected < -0.2
    assert of_rejected > 0
    # APO-down is the one whose chosen reward stands still there: what raises its margin pulls both down.
    assert of_chosen == 0 if isinstance(loss, ApoDownLoss) else of_chosen < 0


def test_discopop_as_published_is_worse_just_above_zero_than_at_it() -> None:
    """Its authors remark on it: at tau = 0.05 the loss is not monotone, and its slope at zero has the wrong sign."""
    d = double(-0.5, 0.0, 0.02, 0.5, 1.0)
    values = taken(DiscoPopLoss(), d, torch.zeros_like(d)).tolist()
    assert values[2] > values[1] == pytest.approx((LN2 + 1) / 2)
    assert values[0] > values[1] > values[3] > values[4]
    d.requires_grad_()
    (slope,) = torch.autograd.grad(taken(DiscoPopLoss(), d, torch.zeros_like(d)).sum(), d)
    # (1 - log 2) m' - 1/4 - 1/2, with m' = 1 / (4 tau)
    assert float(slope[1]) == pytest.approx((1 - LN2) / (4 * 0.05) - 0.75)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in UNBOUNDED], ids=str)
@settings(deadline=None, max_examples=50, derandomize=True)
@given(chosen=REWARD, rejected=REWARD)
def test_bounded_below_by_zero(loss: PreferenceLoss, chosen: float, rejected: float) -> None:
    value = float(taken(loss, double(chosen), double(rejected)))
    assert value >= -1e-12
    assert value <= 2 or not isinstance(loss, ApoZeroLoss | ApoDownLoss)


def test_robust_is_not_bounded_below() -> None:
    by_value(taken(RobustLoss(label_smoothing=0.25), double(1e4), double(0)), -0.25 * 1e4 / 0.5)
    assert taken(RobustLoss(label_smoothing=0), double(1e4), double(0)) >= 0


@settings(deadline=None, max_examples=50, derandomize=True)
@given(d=st.floats(-30, 30), e=st.just(0.0) | st.floats(1e-30, 0.49))
def test_robust_is_unbiased_under_flipped_labels(d: float, e: float) -> None:
    robust = RobustLoss(label_smoothing=e)
    expectation = (1 - e) * taken(robust, double(d), double(0)) + e * taken(robust, double(0), double(d))
    torch.testing.assert_close(expectation, taken(LogisticLoss(), double(d), double(0)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", OF_THE_MARGIN, ids=str)
@settings(deadline=None, max_examples=25, derandomize=True)
@given(chosen=REWARD, rejected=REWARD, shift=REWARD)
def test_losses_of_the_margin_depend_on_nothing_else(
    loss: PreferenceLoss, chosen: float, rejected: float, shift: float
) -> None:
    one = taken(loss, double(chosen), double(rejected))
    two = taken(loss, double(chosen + shift), double(rejected + shift))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", OF_THE_REWARDS, ids=str)
def test_losses_of_the_rewards_do_depend_on_more(loss: PreferenceLoss) -> None:
    assert (taken(loss, double(3), double(2)) - taken(loss, double(-1), double(-2))).abs() > 0.01


def test_discopop_is_logistic_far_below_zero_and_exponential_far_above() -> None:
    d = torch.tensor([-100.0, -30.0, 3.0, 30.0])
    by_value(taken(DiscoPopLoss(), d, torch.zeros(4)), 100.0, 30.0, math.exp(-3), math.exp(-30))


@each_loss
def test_only_these_losses_and_what_holds_them_couple_pairs(loss: PreferenceLoss) -> None:
    assert loss in UNLISTED or loss.couples_pairs == (loss in COUPLED)
    assert ObjectiveConfig(loss=loss).couples_pairs == loss.couples_pairs
    chosen, rejected = double(1, -2, 0.5), double(0.3, 1, -1)
    alone = torch.cat([taken(loss, c, r) for c, r in zip(chosen.split(1), rejected.split(1), strict=True)])
    assert torch.equal(taken(loss, chosen, rejected), alone) != loss.couples_pairs


def test_aot_does_not_mind_who_is_paired_with_whom() -> None:
    chosen, rejected, loss = double(1, -2, 0.5), double(0.3, 1, -1), AotLoss()
    assert torch.equal(taken(loss, chosen, rejected), taken(loss, chosen[[2, 0, 1]], rejected[[1, 0, 2]]))
    by_value(taken(loss, chosen, rejected), logistic(-1), logistic(0.2), logistic(0), rtol=1e-13)


@pytest.mark.parametrize(
    ("component", "fields"),
    [
        (RobustLoss, {"label_smoothing": 0.5}),
        (ExoLoss, {"label_smoothing": 0}),
        (AotLoss, {"label_smoothing": 0.5}),
        (AotPairedLoss, {"label_smoothing": 0.5}),
        (AotPairedLoss, {"reference_scale": 0}),
        (DiscoPopLoss, {"tau": 1}),
        (DiscoPopLoss, {"tau": 0}),
        (SppoLoss, {"target": 0}),
    ],
)
def test_values_that_make_no_sense_are_refused(component: type, fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        component(**fields)
