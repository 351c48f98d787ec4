"""The component keeps what every token weighting has to keep, and selects exactly the tokens that it says."""

from __future__ import annotations

import pytest
import torch
from prefopt_selective import SelectiveWeighting
from pydantic import ValidationError

from prefopt import Objective, ObjectiveConfig, Signal, TokenBatch, TokenColumn, zoo
from prefopt.testing import conformance

SCORES = ("log_ratio", "reference_surprisal", "column")


@conformance(
    SelectiveWeighting(),
    SelectiveWeighting(ratio=1),
    SelectiveWeighting(score="reference_surprisal", ratio=0.5),
    SelectiveWeighting(score="column", ratio=0.01, column="oracle"),
    SelectiveWeighting(score="entropy", highest="both", ratio=0.2, count="floor"),
    SelectiveWeighting(highest="rejected", ratio=0.4, count="quantile"),
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


@pytest.mark.parametrize("wrong", [{"ratio": 0}, {"ratio": 1.1}, {"score": "surprise"}, {"highest": "none"}])
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


def test_which_side_keeps_its_highest_scores():
    tokens = batch([[1.0, 4.0, 2.0, 3.0], [1.0, 4.0, 2.0, 3.0]], [4, 4])
    kept = {side: SelectiveWeighting(ratio=0.5, highest=side)(tokens).tolist() for side in ("rejected", "both")}
    assert kept["rejected"] == [[1, 0, 1, 0], [0, 1, 0, 1]]
    assert kept["both"] == [[0, 1, 0, 1], [0, 1, 0, 1]]


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2, 1), (3, 1), (6, 1), (7, 2), (10, 3), (13, 3)])
def test_rounded_down_but_never_to_nothing(length, count):
    tokens = batch(torch.randn(2, 20).tolist(), [length] * 2)
    assert SelectiveWeighting(ratio=0.3, count="floor")(tokens).sum(-1).tolist() == [count] * 2


def test_entropy_reads_the_policys_own():
    weighting = SelectiveWeighting(score="entropy", highest="both", ratio=0.2)
    assert weighting.requires == {Signal.LOG_COLLISION}
    collision = torch.tensor([[-1.0, -3.0, -2.0], [-3.0, -1.0, -9.0]])
    tokens = batch([[0.0] * 3] * 2, [3, 2], log_collision=collision)
    assert weighting(tokens).tolist() == [[0, 1, 0], [1, 0, 0]]


def pair_by_hand(case_logps, ref_logps, lengths, weights_of):
    """-log sigmoid(beta (sum w r_c - sum w r_j)), with the weights that `weights_of` gives for log-ratios."""
    sums = []
    for row, length in enumerate(lengths):
        ratios = [case_logps[row, t] - ref_logps[row, t] for t in range(length)]
        weights = weights_of([float(ratio.detach()) for ratio in ratios], row)
        sums.append(sum(w * ratio for w, ratio in zip(weights, ratios, strict=True)))
    return -torch.nn.functional.logsigmoid(0.3 * (sums[0] - sums[1]))


def models(lengths, seed):
    draw = torch.Generator().manual_seed(seed)
    logps, ref_logps = torch.randn(2, 2, 9, generator=draw, dtype=torch.float64) - 3
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    return logps.requires_grad_(), ref_logps, mask


@pytest.mark.parametrize("lengths", [(9, 4), (1, 6), (7, 8)])
def test_selective_dpo_as_released(lengths):
    """Tokens where the policy is behind the reference in the chosen response, ahead in the rejected one: score >= its
    0.6 quantile, by torch's own."""
    logps, ref_logps, mask = models(lengths, 3)

    def weights_of(ratios, row):
        scores = torch.tensor([ratio if row else -ratio for ratio in ratios], dtype=torch.float64)
        return (scores >= torch.quantile(scores, 0.6)).double().tolist()

    weighting = {"name": "selective", "highest": "rejected", "ratio": 0.4, "count": "quantile"}
    objective = Objective(ObjectiveConfig(beta=0.3, weighting=weighting), num_layers=1, hidden_size=1)
    loss = objective(TokenBatch(logps, ref_logps, mask, mask.long())).loss
    by_hand = pair_by_hand(logps, ref_logps, lengths, weights_of)
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, logps)[0] for value in (loss, by_hand)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    same = TokenBatch(ref_logps, ref_logps, mask, mask.long())
    assert torch.equal(objective(same).weights, mask.double()), "where all scores are equal every token is kept"


@pytest.mark.parametrize("lengths", [(9, 4), (7, 8)])
def test_sepo_as_released(lengths):
    """-log sigmoid(mean over the selected of log pi in the chosen response - the same in the rejected one)."""
    logps, _, mask = models(lengths, 4)
    scores = torch.randn(2, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    means = []
    for row, length in enumerate(lengths):
        order = sorted(range(length), key=lambda t, row=row: float(scores[row, t]), reverse=row == 0)
        selected = order[: max(1, 3 * length // 10)]
        means.append(sum(logps[row, t] for t in selected) / len(selected))
    by_hand = -torch.nn.functional.logsigmoid(means[0] - means[1])
    selective = {"name": "selective", "score": "column", "ratio": 0.3, "count": "floor"}
    weighting = {"name": "scaled", "to": "selected_mean", "weighting": selective}
    config = zoo.build({"zoo": "simpo", "beta": 1, "gamma": 0, "weighting": weighting})
    tokens = TokenBatch(logps, None, mask, mask.long(), columns={"scores": scores})
    loss = Objective(config, num_layers=1, hidden_size=1)(tokens).loss
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, logps)[0] for value in (loss, by_hand)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
