"""The component keeps what every token weighting has to keep, and selects exactly the tokens that it says."""

from __future__ import annotations

import pytest
import torch
from prefopt_selective import SelectiveWeighting
from pydantic import ValidationError

from prefopt import Objective, ObjectiveConfig, Signal, TokenBatch, TokenColumn
from prefopt.testing import conformance

SCORES = ("log_ratio", "reference_surprisal", "column")


@conformance(
    SelectiveWeighting(),
    SelectiveWeighting(ratio=1),
    SelectiveWeighting(score="reference_surprisal", ratio=0.5),
    SelectiveWeighting(score="column", ratio=0.01, column="oracle"),
)
def test_conformance(check):
    check()


def batch(scores, lengths, **fields):
    """A batch whose every score is that one, with the padding more extreme than any token."""
    scores = torch.tensor(scores)
    mask = torch.arange(scores.shape[1]) < torch.tensor(lengths)[:, None]
    rubbish = torch.where(torch.arange(len(lengths)) < len(lengths) // 2, torch.inf, -torch.inf)[:, None]
    scores = torch.where(mask, scores, rubbish)
    given = {"logps": torch.zeros_like(scores), "ref_logps": -scores, "columns": {"scores": scores}}
    return TokenBatch(mask=mask, token_ids=mask.long(), **(given | fields))


@pytest.mark.parametrize("score", SCORES)
def test_the_highest_of_the_chosen_and_the_lowest_of_the_rejected(score):
    tokens = batch([[1.0, 4.0, 2.0, 3.0, 0.0], [1.0, 4.0, 2.0, 3.0, 9.0]], [4, 5])
    weights = SelectiveWeighting(score=score, ratio=0.5)(tokens)
    assert weights.tolist() == [[0, 1, 0, 1, 0], [1, 0, 1, 1, 0]]


@pytest.mark.parametrize("score", SCORES)
def test_equal_scores_go_to_the_earlier_token(score):
    tokens = batch([[1.0, 2.0, 2.0, 2.0, 1.0], [3.0, 2.0, 2.0, 2.0, 3.0]], [5, 5])
    weights = SelectiveWeighting(score=score, ratio=0.4)(tokens)
    assert weights.tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0]]


def test_many_equal_scores_go_to_the_earlier_tokens():
    """Beyond the sizes at which an unstable sort happens to keep the order."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(3, (2, 500), generator=draw).float()
    weights = SelectiveWeighting(score="column", ratio=0.5)(batch(scores.tolist(), [500, 400]))
    for row, length, sign in ((0, 500, -1), (1, 400, 1)):
        order = sorted(range(length), key=lambda t, row=row, sign=sign: (sign * float(scores[row, t]), t))
        assert weights[row].nonzero()[:, 0].tolist() == sorted(order[: length // 2])


@pytest.mark.parametrize(
    ("ratio", "length", "count"),
    [(0.07, 100, 7), (0.07, 101, 8), (0.3, 10, 3), (0.3, 11, 4), (0.3, 1, 1), (2 / 3, 3, 2), (1, 7, 7), (1e-9, 50, 1)],
)
def test_exactly_so_many_tokens(ratio, length, count):
    draw = torch.Generator().manual_seed(length)
    tokens = batch(torch.randn(4, 120, generator=draw).tolist(), [length] * 4)
    assert SelectiveWeighting(ratio=ratio)(tokens).sum(-1).tolist() == [count] * 4


def test_a_token_that_scores_worst_of_all_comes_before_the_padding():
    tokens = batch([[-torch.inf] * 2 + [0.0] * 4, [torch.inf] * 3 + [0.0] * 3], [2, 3])
    assert SelectiveWeighting(score="column", ratio=1)(tokens).sum(-1).tolist() == [2, 3]


def test_the_first_tokens_while_the_policy_is_the_reference():
    same = torch.randn(2, 10)
    tokens = batch([[0.0] * 10] * 2, [10, 6], logps=same, ref_logps=same)
    assert SelectiveWeighting()(tokens).tolist() == [[1.0] * 3 + [0.0] * 7, [1.0] * 2 + [0.0] * 8]


def test_the_weights_carry_no_gradient():
    logps = torch.randn(2, 5, requires_grad=True)
    assert not SelectiveWeighting()(batch([[0.0] * 5] * 2, [5, 4], logps=logps)).requires_grad


def test_a_run_is_asked_for_what_the_score_reads_and_no_more():
    for score in SCORES[:2]:
        weighting = SelectiveWeighting(score=score)
        assert weighting.requires == {Signal.REF_LOGPS}
        assert not weighting.columns
    weighting = SelectiveWeighting(score="column", column="oracle")
    assert not weighting.requires
    assert weighting.columns == {TokenColumn("oracle")}


@pytest.mark.parametrize("wrong", [{"ratio": 0}, {"ratio": 1.1}, {"score": "entropy"}])
def test_other_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        SelectiveWeighting(**wrong)


def test_rewards_are_of_the_selected_tokens():
    log_ratios = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 0.0]])
    scores = torch.tensor([[9.0, 0.0, 8.0], [9.0, 0.0, -9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    tokens = TokenBatch(
        logps=log_ratios, ref_logps=torch.zeros(2, 3), mask=mask, token_ids=mask.long(), columns={"scores": scores}
    )
    config = ObjectiveConfig(beta=1.0, weighting={"name": "selective", "score": "column", "ratio": 0.5})
    rewards = Objective(config, num_layers=1, hidden_size=1)(tokens).rewards
    assert rewards.tolist() == [1 + 4, 2]
