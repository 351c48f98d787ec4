"""The component keeps what every token weighting has to keep, and its weights are those of the formula."""

from __future__ import annotations

import math

import pytest
import torch
from prefopt_tis import ContrastWeighting, GuidedWeighting, TisRankWeighting, TisScaleWeighting, TisWeighting
from pydantic import ValidationError

from prefopt import Objective, ObjectiveConfig, TokenBatch, TokenColumn
from prefopt.testing import conformance


@conformance(
    TisWeighting(),
    TisWeighting(k=2, mu=0.5, lower=-2, upper=0),
    TisWeighting(mu=0, column="other"),
    TisRankWeighting(),
    TisScaleWeighting(low=0.5, high=1.5, bound=2),
    GuidedWeighting(alpha=5, beta=1, column="other"),
    ContrastWeighting(),
)
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


def released(log_ratios, side, method):
    """As the code of TIS-DPO transforms the numbers of a response without its end: raw weights are log pi- - log pi+ to
    two decimals, negated in the chosen response."""
    raw = [round(-x, 2) for x in log_ratios]
    scores = [-x for x in raw] if side == 0 else raw
    if method == "scale":
        return [*(0.7 + (max(-1.5, min(1.5, s)) + 1.5) * 0.6 / 3 for s in scores), 0]
    order = sorted(range(len(scores)), key=lambda t: scores[t])
    ranks = [order.index(t) for t in range(len(scores))]
    return [*(0.7 + 0.6 * rank / (len(scores) - 1) if len(scores) > 1 else 1.0 for rank in ranks), 0]


RATIOS = [
    [0.4, -2.0, 0.404, 1.7, 0.1, 9.0],
    [0.4, -2.0, 9.0, 0.0, 0.0, 0.0],
    [0.3, 5.0, 0, 0, 0, 0],
    [7.0, 0, 0, 0, 0, 0],
]
LENGTHS = [6, 3, 2, 1]


def loss_by_hand(weights, logps, ref_logps, beta):
    rewards = [
        sum(w * (logps[row, t] - ref_logps[row, t]) for t, w in enumerate(numbers))
        for row, numbers in enumerate(weights)
    ]
    pairs = zip(rewards[:2], rewards[2:], strict=True)
    return torch.stack([-torch.nn.functional.logsigmoid(beta * (c - j)) for c, j in pairs]).mean()


def by_hand(name, row, numbers):
    side = row // 2
    if name == "guided":
        return [max(0.0, 1 + (1, -1)[side] * 0.5 * 0.4 * x) for x in numbers]
    if name == "contrast":
        return [1.0 if side == 0 else 1 - x for x in numbers]
    return released(numbers[:-1], side, name.removeprefix("tis_"))


@pytest.mark.parametrize(
    "weighting",
    [
        TisRankWeighting(),
        TisScaleWeighting(),
        GuidedWeighting(alpha=0.5, beta=0.4),
        ContrastWeighting(column="log_ratios"),
    ],
    ids=lambda weighting: weighting.name,
)
def test_value_and_gradient_are_those_of_the_formula(weighting):
    """TIS-DPO as released, TGDPO with its negative weights at 0, and cDPO as written."""
    ratios = torch.tensor(RATIOS, dtype=torch.float64)
    ratios = ratios.sigmoid() if weighting.name == "contrast" else ratios
    tokens = batch(ratios.tolist(), LENGTHS)
    draw = torch.Generator().manual_seed(0)
    logps, ref_logps = torch.randn(2, 4, 6, generator=draw, dtype=torch.float64) - 3
    logps.requires_grad_()
    config = ObjectiveConfig(beta=0.3, weighting=weighting)
    output = Objective(config, num_layers=1, hidden_size=1)(tokens.replace(logps=logps, ref_logps=ref_logps))
    weights = [by_hand(weighting.name, row, ratios[row, :n].tolist()) for row, n in enumerate(LENGTHS)]
    for ours, theirs, length in zip(output.weights, weights, LENGTHS, strict=True):
        assert ours[:length].tolist() == pytest.approx(theirs, abs=1e-12)
    expected = loss_by_hand(weights, logps, ref_logps, 0.3)
    torch.testing.assert_close(output.loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, logps)[0] for value in (output.loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_a_guide_that_speaks_strongly_against_a_token_takes_its_weight_not_its_sign():
    weights = GuidedWeighting(alpha=1, beta=1)(batch([[-3.0, 2.0], [3.0, -2.0]], [2, 2]))
    assert weights.tolist() == [[0, 3], [0, 3]]


@pytest.mark.parametrize("weighting", [TisRankWeighting, TisScaleWeighting])
def test_a_scale_the_wrong_way_round_says_so(weighting):
    with pytest.raises(ValidationError, match=r"low is 2, above high, which is 1\.3; exchange the two"):
        weighting(low=2)
