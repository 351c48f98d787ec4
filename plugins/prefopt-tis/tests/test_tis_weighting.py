"""The component keeps what every token weighting has to keep, and its weights are those of the formula."""

from __future__ import annotations

import math

import pytest
import torch
from prefopt_tis import TisWeighting
from pydantic import ValidationError

from prefopt import Objective, ObjectiveConfig, TokenBatch, TokenColumn
from prefopt.testing import conformance


@conformance(TisWeighting(), TisWeighting(k=2, mu=0.5, lower=-2, upper=0), TisWeighting(mu=0, column="other"))
def test_conformance(check):
    check()


def batch(log_ratios, lengths):
    values = torch.tensor(log_ratios, dtype=torch.float64)
    mask = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
    none = torch.zeros_like(values)
    columns = {"log_ratios": torch.where(mask, values, torch.nan)}
    return TokenBatch(logps=none, ref_logps=none, mask=mask, token_ids=mask.long(), columns=columns)


def test_the_weights_are_those_of_the_formula():
    log_ratios = [[-9.0, -0.5, 0.25, 1.0, 9.0], [-9.0, 0.3, 9.0, 0.0, 0.0]]
    weights = TisWeighting(k=3, mu=0.7, lower=-1, upper=2)(batch(log_ratios, [5, 3]))
    clamped = [[-1, -0.5, 0.25, 1, 2], [-1, 0.3, 2]]
    for row, (sign, values) in enumerate(zip((1, -1), clamped, strict=True)):
        expected = [3 * math.exp(sign * 0.7 * value) for value in values]
        assert weights[row, : len(values)].tolist() == pytest.approx(expected, rel=1e-12)
    assert weights[1, 3:].tolist() == [0, 0]


def test_a_token_that_speaks_for_the_preference_counts_more_in_the_chosen_and_less_in_the_rejected():
    weights = TisWeighting()(batch([[0.4, -0.4], [0.4, -0.4]], [2, 2]))
    assert weights[0, 0] > 1 > weights[0, 1]
    assert weights[1, 0] < 1 < weights[1, 1]
    torch.testing.assert_close(weights[0] * weights[1], torch.ones(2, dtype=torch.float64))


def test_models_that_agree_weigh_nothing():
    tokens = batch([[0.0, 0.0], [0.0, 0.0]], [2, 1])
    assert TisWeighting()(tokens).tolist() == [[1, 1], [1, 0]]
    assert TisWeighting(mu=0, k=0.5)(batch([[5.0], [-5.0]], [1, 1])).tolist() == [[0.5], [0.5]]


def test_rewards_are_the_weighted_log_ratios_of_the_policy():
    column = {"log_ratios": torch.tensor([[math.log(2), 0.0], [math.log(2), -0.5]], dtype=torch.float64)}
    logps = torch.tensor([[1.0, 2.0], [4.0, 8.0]], dtype=torch.float64)
    mask = torch.ones(2, 2, dtype=torch.bool)
    tokens = TokenBatch(
        logps=logps, ref_logps=torch.zeros_like(logps), mask=mask, token_ids=mask.long(), columns=column
    )
    config = ObjectiveConfig(beta=1.0, weighting={"name": "tis"})
    rewards = Objective(config, num_layers=1, hidden_size=1)(tokens).rewards
    assert rewards.tolist() == pytest.approx([2 * 1 + 2, 4 / 2 + 8 * math.exp(0.5)])


def test_a_token_without_a_number_has_the_log_ratio_0():
    assert TisWeighting(column="mine").columns == {TokenColumn("mine", default=0.0)}


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"mu": -1}, {"lower": 2.0}, {"upper": -1}, {"upper": math.inf}, {"lower": -math.inf}]
)
def test_other_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        TisWeighting(**wrong)


def test_a_range_the_wrong_way_round_says_so():
    with pytest.raises(ValidationError, match=r"lower is 2, above upper, which is 1\.5; exchange the two"):
        TisWeighting(lower=2)
