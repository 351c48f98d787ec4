"""The losses that read more of a pair than its rewards, or keep something from step to step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from prefopt import Objective, ObjectiveConfig, TokenBatch
from prefopt.columns import PairColumn, TokenColumn
from prefopt.losses import (
    AotPairedLoss,
    BcoLoss,
    DynamicBetaLoss,
    HingeLoss,
    LogisticLoss,
    MixtureLoss,
    OffsetLoss,
    OnPolicyWeightedLoss,
    TokenRewardLoss,
    WeightedLoss,
)
from tests.batches import batch_of
from tests.losses.test_losses import logistic, sigmoid
from tests.test_component import by_value, double

BASELINE = MixtureLoss(losses=(BcoLoss(), LogisticLoss()), weights=(1, 0.5))


def test_the_baseline_is_the_mean_of_all_rewards_seen_in_training() -> None:
    steps = [(double(1, 4, -2), double(0, 3, 0)), (double(5), double(-1))]
    objective = Objective(ObjectiveConfig(beta=1, loss=BASELINE), num_layers=1, hidden_size=1).double()
    (baseline,) = objective.loss.stateful
    seen = double()
    for chosen, rejected in steps:
        seen = torch.cat([seen, chosen, rejected])
        before = baseline.mean.clone()
        with torch.no_grad():
            objective(batch_of(chosen, rejected))
        objective.eval()
        objective(batch_of(chosen, rejected))
        assert torch.equal(baseline.mean, before), "neither evaluation nor a look at the loss moves it"
        objective.train()
        output = objective(batch_of(chosen, rejected))
        delta = seen.mean()
        torch.testing.assert_close(baseline.mean, delta)
        assert int(baseline.count) == len(seen)
        by_hand = [
            logistic(c - delta) + logistic(delta - r) + 0.5 * logistic(c - r)
            for c, r in zip(chosen, rejected, strict=True)
        ]
        by_value(output.losses, *by_hand, rtol=1e-12)


def test_the_baseline_is_saved_with_the_objective(tmp_path: Path) -> None:
    objective = Objective(ObjectiveConfig(loss=BASELINE), num_layers=1, hidden_size=1)
    objective(batch_of(double(1, 2), double(0, -2)))
    assert objective.state_dict()["loss.stateful.0.mean"] != 0
    objective.save(tmp_path)
    assert Objective.load(tmp_path).state_dict() == objective.state_dict()


def test_a_dynamic_beta_moves_its_means_in_training_alone_and_is_dpo_in_evaluation() -> None:
    chosen, rejected = double(1, 4, -2, 0.5).requires_grad_(), double(0, 3, 0, 0)
    loss = DynamicBetaLoss(beta=0.5, a=0.3, drop=0.5).build().double()
    tokens = batch_of(chosen, rejected)
    with torch.no_grad():
        loss(chosen, rejected, tokens)
    plain = loss.eval()(chosen, rejected, tokens)
    torch.testing.assert_close(plain, -torch.nn.functional.logsigmoid(chosen - rejected))
    assert loss.mean == loss.deviation == loss.steps == 0
    loss.train()
    margins = (chosen - rejected).detach() / 0.5
    mean = deviation = 0.0
    for step in (1, 2, 3):
        losses = loss(chosen, rejected, tokens)
        mean, deviation = 0.9 * mean + 0.1 * margins.mean(), 0.9 * deviation + 0.1 * margins.std()
        torch.testing.assert_close(loss.mean, mean)
        torch.testing.assert_close(loss.deviation, deviation)
        assert loss.steps == step
        assert int((losses > 0).sum()) == 2
    assert torch.autograd.grad(losses.sum(), chosen)[0].count_nonzero() == 2


def test_pairs_are_kept_as_often_as_drawing_without_replacement_keeps_them() -> None:
    """Two of three pairs: the pair that is left out is neither the first drawn nor the second."""
    loss = DynamicBetaLoss(beta=1.0, drop=0.3).build().double()
    margins = double(0.0, 1.0, 2.2)
    tokens = batch_of(margins, torch.zeros_like(margins)).replace(token_ids=torch.arange(6)[:, None])
    kept = torch.zeros(3)
    for step in range(1000):
        loss.mean.fill_(0.2)
        loss.deviation.fill_(1.0)
        loss.steps.fill_(step)
        kept += loss._kept(margins, tokens)
    w = [math.exp(-((m - 0.2) ** 2) / 2) for m in (0.0, 1.0, 2.2)]
    out = [
        sum(w[a] / sum(w) * w[b] / (sum(w) - w[a]) for a in range(3) for b in range(3) if {a, b} == {0, 1, 2} - {left})
        for left in range(3)
    ]
    torch.testing.assert_close(kept / 1000, 1 - torch.tensor(out), atol=0.045, rtol=0)


def test_beta_falls_no_lower_than_its_floor_and_one_pair_is_always_kept() -> None:
    chosen = double(-1e4).requires_grad_()
    loss = DynamicBetaLoss(beta=0.1).build().double()
    by_value(loss(chosen, double(0), batch_of(chosen, double(0))), logistic(-1e4 * 1e-3 / 0.1), rtol=1e-9)


def test_aot_paired_reads_the_reference() -> None:
    with pytest.raises(ValidationError, match="reads signals of the reference, but `reference_free` is true"):
        ObjectiveConfig(loss=AotPairedLoss(), reference_free=True)


def with_columns(**columns: Tensor) -> TokenBatch:
    return batch_of(double(2, 0, -1), double(0.5, 0, 1)).replace(columns=columns)


def losses(loss: object, tokens: TokenBatch) -> Tensor:
    chosen, rejected = tokens.logps[:, 0].chunk(2)
    return loss.build()(chosen, rejected, tokens)  # type: ignore[attr-defined]


def test_the_offset_by_hand() -> None:
    tokens = with_columns(score_chosen=double(3, 1, 0), score_rejected=double(1, 0.5, -1))
    by_value(
        losses(OffsetLoss(), tokens), logistic(1.5 - math.log(2)), logistic(-math.log(0.5)), logistic(-2), rtol=1e-13
    )
    plain = OffsetLoss(alpha=0.5, scale="identity")
    by_value(losses(plain, tokens), logistic(1.5 - 1), logistic(-0.25), logistic(-2 - 0.5), rtol=1e-13)


def test_equal_scores_ask_for_no_margin() -> None:
    tokens = with_columns(score_chosen=double(1, 1, 1), score_rejected=double(1, 1, 1))
    rewards = tokens.logps.detach().requires_grad_()
    value = OffsetLoss()(*rewards[:, 0].chunk(2), tokens)
    (gradient,) = torch.autograd.grad(value.sum(), rewards)
    assert value.max() < 1e-100
    assert gradient.isfinite().all()


def test_the_columns_that_are_read() -> None:
    assert OffsetLoss().columns == {PairColumn("score_rejected"), PairColumn("score_chosen", at_least="score_rejected")}
    assert WeightedLoss(loss=HingeLoss(), column="trust").columns == {PairColumn("trust", at_least=0.0)}


def test_weights_of_the_data_multiply_the_loss() -> None:
    tokens = with_columns(weight=double(0, 1, 2.5))
    by_value(losses(WeightedLoss(loss=LogisticLoss()), tokens), 0, logistic(0), 2.5 * logistic(-2), rtol=1e-13)


def test_weights_of_the_policy_are_one_where_it_would_say_the_same() -> None:
    """Uniform over four tokens: each has the chance of two like draws, 1/4."""
    quarter = torch.full((6, 1), math.log(0.25), dtype=torch.float64)
    tokens = batch_of(double(2, 0, -1), double(0.5, 0, 1)).replace(log_collision=quarter)
    chosen, rejected = tokens.logps[:, 0].chunk(2)
    even = tokens.replace(logps=quarter)
    loss = OnPolicyWeightedLoss(loss=LogisticLoss()).build()
    by_value(loss(chosen, rejected, even), logistic(1.5), logistic(0), logistic(-2), rtol=1e-13)
    halved = tokens.replace(logps=quarter + math.log(0.5))
    by_value(loss(chosen, rejected, halved), logistic(1.5) / 4, logistic(0) / 4, logistic(-2) / 4, rtol=1e-13)


def rewarded_tokens() -> TokenBatch:
    """A pair of responses of three tokens and one, with rubbish off them."""
    logps = double(-1, -2, -4, -3, math.inf, math.nan).view(2, 3).requires_grad_()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    q = double(0.5, -0.25, 0, -0.5, math.nan, -math.inf).view(2, 3)
    return TokenBatch(logps, torch.zeros_like(logps), mask, mask.long(), columns={"token_rewards": q})


@pytest.mark.parametrize(("reduction", "lengths"), [("sum", (1, 1)), ("mean", (3, 1))])
def test_token_rewards_by_hand(reduction: str, lengths: tuple[int, int]) -> None:
    """Each token is pushed by its reward, weighed by how far the pair is from being told apart."""
    tokens = rewarded_tokens()
    config = TokenRewardLoss(loss=LogisticLoss(), alpha=0.5, beta=0.3, reduction=reduction)
    chosen, rejected = double(2).requires_grad_(), double(0.5).requires_grad_()
    value = config.build()(chosen, rejected, tokens)
    w = sigmoid(-1.5)
    term = (0.5 * -1 - 0.25 * -2) / lengths[0] + -0.5 * -3 / lengths[1]
    by_value(value, logistic(1.5) - 0.5 * 0.3 * w * term, rtol=1e-13)
    of_logps, of_chosen, of_rejected = torch.autograd.grad(value.sum(), (tokens.logps, chosen, rejected))
    c, j = (0.5 * 0.3 * w / length for length in lengths)
    by_value(of_logps.flatten(), -0.5 * c, 0.25 * c, 0, 0.5 * j, 0, 0, rtol=1e-13)
    by_value(torch.cat([of_chosen, of_rejected]), -w, w, rtol=1e-13)  # through the logistic loss alone


def test_token_rewards_of_zero_or_an_alpha_of_zero_leave_the_loss_inside() -> None:
    tokens = rewarded_tokens()
    nothing = tokens.replace(columns={"zeros": torch.zeros(2, 3)})
    for loss, batch in (
        (TokenRewardLoss(loss=HingeLoss(), column="zeros"), nothing),
        (TokenRewardLoss(loss=HingeLoss(), alpha=0), tokens),
    ):
        by_value(loss.build()(double(0.25), double(0), batch), 0.75, rtol=1e-13)


def test_token_rewards_keep_the_state_of_the_loss_inside() -> None:
    objective = Objective(ObjectiveConfig(loss=TokenRewardLoss(loss=BcoLoss())), num_layers=1, hidden_size=1)
    objective(rewarded_tokens())
    assert set(objective.state_dict()) == {"loss.loss.mean", "loss.loss.count"}
    assert objective.config.couples_pairs
    assert not objective.takes_pairs_apart


def test_token_rewards_may_be_of_either_sign_and_must_be_there() -> None:
    loss = TokenRewardLoss(loss=LogisticLoss(), column="q")
    assert loss.columns == {TokenColumn("q")}
    objective = Objective(ObjectiveConfig(loss=loss), num_layers=1, hidden_size=1)
    with pytest.raises(ValueError, match="lacks the column 'q', which preference loss 'token_reward' reads"):
        objective(rewarded_tokens())
    for wrong in ({"alpha": -1}, {"alpha": math.inf}, {"beta": 0}, {"reduction": "max"}):
        with pytest.raises(ValidationError):
            TokenRewardLoss(loss=LogisticLoss(), **wrong)


def test_a_batch_that_lacks_a_column() -> None:
    objective = Objective(ObjectiveConfig(loss=OffsetLoss()), num_layers=1, hidden_size=1)
    with pytest.raises(ValueError, match="lacks the column 'score_chosen', which preference loss 'offset' reads"):
        objective(batch_of(double(1), double(0)))
