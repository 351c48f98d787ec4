"""What the weights of a response come to together, written out response by response, with what passes gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from prefopt import Objective, ObjectiveConfig, TokenBatch, resolve
from prefopt.component import Signal, TokenWeighting, weights_and_penalty
from prefopt.tokens import masked_mean
from prefopt.weightings import (
    ColumnWeighting,
    MixedWeighting,
    PositionWeighting,
    ScaledWeighting,
    ShuffledWeighting,
    SparseWeighting,
    UniformWeighting,
)
from tests.batches import Case, random_case
from tests.responses import EXACT, log_sigmoid

Budget = Callable[[list[Tensor], list[Tensor], int], Tensor]


def matched(weights: list[Tensor], ratios: list[Tensor], shorter: int) -> Tensor:
    """The factor by which weights of mean one give the unweighted reward; one, where that would turn its sign."""
    mean = sum(weights) / len(weights)
    ratio = (sum(ratios) / sum(w / mean * r for w, r in zip(weights, ratios, strict=True))).detach()
    return torch.where(ratio > 0, ratio.clamp(0.1, 10), 1) / mean


CURVE = PositionWeighting(values=(0.4, 2.0, 1.1))

FACTORS: dict[str, Budget] = {
    "mean_one": lambda w, r, b: len(w) / sum(w),
    "sum_one": lambda w, r, b: 1 / sum(w),
    "selected_mean": lambda w, r, b: torch.tensor(len(w) / sum(bool(x > 0) for x in w)),
    "pair_min": lambda w, r, b: b / sum(w),
    "reward_match": matched,
}


def by_hand(case: Case, weights: Tensor, budget: Budget) -> Tensor:
    """The loss of DPO at beta 0.6 under these weights in their budget, [B]."""
    rewards = []
    for row, length in enumerate(case.lengths):
        p, q = (torch.log_softmax(x[row], -1) for x in (case.logits, case.ref_logits))
        ratios = [(p - q)[t, case.token_ids[row, t]] for t in range(length)]
        shorter = min(length, case.lengths[(row + case.pairs) % len(case.lengths)])
        factor = budget(list(weights[row, :length]), ratios, shorter)
        rewards.append(0.6 * sum(factor * w * r for w, r in zip(weights[row], ratios, strict=False)))
    losses = [-log_sigmoid(c - j) for c, j in zip(rewards[: case.pairs], rewards[case.pairs :], strict=True)]
    return torch.stack(losses)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("to", FACTORS)
def test_values_and_gradients_of_every_budget(to: str, seed: int) -> None:
    """Gradient reaches what learns through the normalisers, and none through reward_match's factor."""
    _compare(ScaledWeighting(weighting=CURVE, to=to), seed, lambda plain: plain, FACTORS[to])


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_values_and_gradients_of_a_mixture(share: float) -> None:
    """1 - share + share w under DPO."""
    mixed = MixedWeighting(weighting=CURVE, share=share)
    _compare(mixed, 0, lambda plain: 1 - share + share * plain, lambda w, r, b: torch.tensor(1.0))


def _compare(weighting: TokenWeighting, seed: int, change: Callable[[Tensor], Tensor], budget: Budget) -> None:
    """Losses and gradients of DPO with the weighting against those by hand of the changed weights that it holds."""
    case = random_case(seed)
    objective = Objective(ObjectiveConfig(beta=0.6, weighting=weighting), num_layers=3, hidden_size=5).double()
    expected = by_hand(case, change(objective.weighting.function(case.tokens())), budget)
    output = objective(case.tokens())
    torch.testing.assert_close(output.losses, expected, **EXACT)
    leaves = [case.logits, *objective.parameters()]
    ours, theirs = (torch.autograd.grad(loss.mean(), leaves) for loss in (output.losses, expected))
    for our, their in zip(ours, theirs, strict=True):
        assert their.abs().max() > 1e-9
        torch.testing.assert_close(our, their, **EXACT)


def batch(weights: list[list[float]], lengths: list[int]) -> TokenBatch:
    given = torch.tensor(weights)
    mask = torch.arange(given.shape[1]) < torch.tensor(lengths)[:, None]
    ratios = torch.linspace(-1, 2, given.numel()).view_as(given)
    columns = {"weights": torch.where(mask, given, torch.nan)}
    return TokenBatch(ratios - 3, torch.full_like(given, -3.0), mask, mask.long(), columns=columns)


@pytest.mark.parametrize("to", FACTORS)
def test_weights_that_are_all_zero_stay_so_and_pass_finite_gradients(to: str) -> None:
    tokens = batch(
        [[0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 0.0, 9.0], [2.0, 0.0, 0.0, 0.0], [0.0, 9.0, 9.0, 9.0]], [4, 3, 2, 1]
    )
    given = torch.where(tokens.mask, tokens.columns["weights"], 0).requires_grad_()
    scaled = ScaledWeighting(weighting=ColumnWeighting(), to=to)
    weights = scaled.change(given, tokens)
    assert torch.equal(weights, scaled.build(num_layers=1, hidden_size=1)(tokens))
    assert not weights[0].any()
    assert not weights[3].any()
    assert not weights[~tokens.mask].any()
    assert torch.autograd.grad(weights.square().sum(), given)[0].isfinite().all()


def test_sums_by_hand() -> None:
    tokens = batch([[1.0, 3.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]], [4, 2])
    sums = {to: _weights(to, tokens).sum(-1).tolist() for to in ("mean_one", "sum_one", "pair_min", "selected_mean")}
    assert sums == {"mean_one": [4, 2], "sum_one": [1, 1], "pair_min": [2, 2], "selected_mean": [8, 4]}


def _weights(to: str, tokens: TokenBatch) -> Tensor:
    return ScaledWeighting(weighting=ColumnWeighting(), to=to).build(num_layers=1, hidden_size=1)(tokens)


def test_selected_mean_makes_the_mean_that_over_the_tokens_selected() -> None:
    tokens = batch([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]], [4, 3])
    weighting = ScaledWeighting(weighting=ColumnWeighting(), to="selected_mean")
    config = ObjectiveConfig(beta=1.0, weighting=weighting, shaping="mean")
    rewards = Objective(config, num_layers=1, hidden_size=1)(tokens).rewards
    ratios = tokens.logps - tokens.ref_logps
    torch.testing.assert_close(rewards, torch.stack([(ratios[0, 0] + ratios[0, 2]) / 2, ratios[1, 1]]))


def test_a_matched_reward_goes_no_farther_than_tenfold() -> None:
    tokens = batch([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], [2, 2, 2, 2])
    ratios = torch.tensor([[1.0, 3.0], [1.0, -0.999], [1.0, 1e9], [1.0, -3.0]])
    given = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    tokens = tokens.replace(logps=tokens.ref_logps + ratios, columns={"weights": given})
    expected = [[4.0, 0.0], [1.0, 1.0], [20.0, 0.0], [2.0, 0.0]]  # the last would turn the reward's sign
    torch.testing.assert_close(_weights("reward_match", tokens), torch.tensor(expected))
    same = tokens.replace(logps=tokens.ref_logps)
    torch.testing.assert_close(_weights("reward_match", same), _weights("mean_one", same))


def test_a_mask_in_a_budget_of_mean_one_is_the_mask_of_that_scale() -> None:
    mask = SparseWeighting(position="token", init="near_one", gate="hard_concrete", l0=0.2)
    case = random_case(2)
    pair = []
    for weighting in (ScaledWeighting(weighting=mask, to="mean_one"), mask.model_copy(update={"scale": "mean_one"})):
        torch.manual_seed(0)
        objective = Objective(ObjectiveConfig(weighting=weighting), num_layers=3, hidden_size=5).double().eval()
        pair.append(weights_and_penalty(objective.weighting, case.tokens()))
    assert torch.equal(pair[0][0], pair[1][0])
    assert torch.equal(pair[0][1], pair[1][1])
    torch.testing.assert_close(masked_mean(pair[0][0], case.mask), torch.ones(6, dtype=torch.float64))


def test_a_budget_needs_what_the_other_does_and_no_more() -> None:
    spec = {"name": "scaled", "weighting": {"name": "shuffled", "weighting": {"name": "column", "column": "truth"}}}
    weighting = resolve(TokenWeighting, {**spec, "to": "pair_min"})
    inner = ShuffledWeighting(weighting=ColumnWeighting(column="truth"))
    assert weighting == ScaledWeighting(weighting=inner, to="pair_min")
    assert weighting.columns == inner.columns
    assert not weighting.requires
    assert ScaledWeighting(weighting=UniformWeighting(), to="reward_match").requires == {Signal.REF_LOGPS}
    with pytest.raises(ValidationError, match="reads signals of the reference, but `reference_free` is true"):
        ObjectiveConfig(weighting={"name": "scaled", "weighting": "uniform", "to": "reward_match"}, reference_free=True)
