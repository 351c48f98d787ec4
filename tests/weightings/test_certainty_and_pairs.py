"""Weights by the policy's certainty, by the difference of a pair's responses, by their lengths, and by transport."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from prefopt import TokenBatch
from prefopt.component import Signal
from prefopt.weightings import (
    DifferenceWeighting,
    DownSampledWeighting,
    EntropyWeighting,
    LowConfidenceWeighting,
    TransportWeighting,
)
from tests.batches import padded, random_case


def batch(ids: list[list[int]], logps: Tensor | None = None) -> TokenBatch:
    """Responses of these tokens, chosen first."""
    width = max(map(len, ids)) + 1
    mask = torch.arange(width) < torch.tensor([len(row) for row in ids])[:, None]
    token_ids = torch.tensor([[*row, *[-(10**9)] * (width - len(row))] for row in ids])
    values = torch.zeros(mask.shape) if logps is None else padded(logps, mask, 0)
    return TokenBatch(values, values, mask, token_ids)


def test_tokens_below_the_mean_probability() -> None:
    """Below the mean of probabilities, which is not the geometric mean: 0.5 is below (0.9 + 0.9 + 0.5) / 3."""
    chances = torch.tensor([[0.9, 0.9, 0.5, 0.1], [0.2, 0.6, 0.1, 0.1]])
    tokens = batch([[1, 1, 1], [1, 1]], torch.nn.functional.pad(chances.log(), (0, 0))[:, :4])
    assert LowConfidenceWeighting()(tokens).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("length", [1, 3, 7])
def test_a_pair_with_a_response_of_equal_probabilities_has_no_weights(chance: float, length: int) -> None:
    """Whatever their mean is rounded to; the other pair keeps its own."""
    width = max(length, 5) + 1
    logps = torch.full((4, width), math.log(chance))
    logps[1:] = torch.linspace(-3, -1, width)
    weights = LowConfidenceWeighting()(batch([[1] * length, [1] * 4, [1] * 5, [1] * 3], logps))
    assert not weights[[0, 2]].any()
    assert weights[1].any()
    assert weights[3].any()


def test_the_entropy_of_an_even_choice_is_the_log_of_its_size() -> None:
    tokens = batch([[1, 1], [1]])
    tokens = tokens.replace(log_collision=torch.tensor([[-math.log(4), 0.0, 9.0], [1e-7, 9.0, 9.0]]))
    torch.testing.assert_close(EntropyWeighting()(tokens), torch.tensor([[math.log(4), 0, 0], [0, 0, 0]]))


def longest(one: list[int], two: list[int]) -> int:
    """The length of a longest common subsequence, by trying all subsequences."""
    for size in range(min(len(one), len(two)), 0, -1):
        theirs = {tuple(x) for x in combinations(two, size)}
        if any(tuple(x) in theirs for x in combinations(one, size)):
            return size
    return 0


def test_the_tokens_in_common_are_a_longest_common_subsequence() -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 8, (60,), generator=draw).tolist()
    ids = [torch.randint(3, (size,), generator=draw).tolist() for size in sizes]
    tokens = batch(ids)
    weights = DifferenceWeighting()(tokens)
    assert not weights[~tokens.mask].any()
    for pair in range(30):
        common = [
            [token for token, weight in zip(ids[row], weights[row].tolist(), strict=False) if not weight]
            for row in (pair, pair + 30)
        ]
        assert common[0] == common[1]
        assert len(common[0]) == longest(ids[pair], ids[pair + 30])
    alone = DifferenceWeighting()(batch([ids[3], ids[33]]))
    assert torch.equal(alone, weights[[3, 33], : alone.shape[1]])


def test_what_lies_wholly_in_the_other_response_has_no_weights() -> None:
    assert DifferenceWeighting()(batch([[4, 4, 5], [4, 5]])).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_as_many_tokens_are_drawn_as_the_shorter_response_has_and_evenly() -> None:
    draw = torch.Generator().manual_seed(1)
    chosen = torch.randint(100, (2000, 6), generator=draw).tolist()
    tokens = batch([*chosen, *[[1, 2]] * 2000])
    weights = DownSampledWeighting(seed=2)(tokens)
    assert torch.equal(weights.sum(-1), torch.full((4000,), 2.0))
    shares = weights[:2000, :6].mean(0)
    torch.testing.assert_close(shares, torch.full((6,), 1 / 3), atol=0.04, rtol=0)
    assert torch.equal(weights[2000:, :2], torch.ones(2000, 2))
    assert not torch.equal(DownSampledWeighting(seed=3)(tokens), weights)


@pytest.mark.parametrize(("reg", "reg_m"), [(1.0, 0.2), (0.1, 0.2), (0.05, 1.0)])
def test_the_plan_is_where_its_cost_has_no_slope(reg: float, reg_m: float) -> None:
    """d/dG of <G, M> + reg KL(G | 1) + reg_m (KL(G 1 | 1) + KL(G' 1 | 1)) is M + reg log G + reg_m (log rows + log
    columns), zero where G is least; so log G is read off its marginals, and must have these marginals.
    """
    case = random_case(3, lengths=(5, 4))
    tokens = case.tokens()
    weighting = TransportWeighting(reg=reg, reg_m=reg_m)
    weights = weighting(tokens)
    rows, columns = weights[0, :5], weights[1, :4]
    states = case.others["last_states"]
    chosen, rejected = states[0, :5], states[1, :4]
    largest = max(torch.cdist(chosen, rejected).max(), chosen.norm(dim=-1).max(), rejected.norm(dim=-1).max(), 1)
    costs = torch.cdist(chosen, rejected) / largest
    # The weights are the marginals over scale; of all scales, one makes log G agree with them.
    shape = (-costs - reg_m * (rows.log()[:, None] + columns.log())) / reg
    plan = shape.exp() / shape.exp().sum()
    torch.testing.assert_close(plan.sum(1), rows / rows.sum(), rtol=1e-9, atol=0)
    torch.testing.assert_close(plan.sum(0), columns / columns.sum(), rtol=1e-9, atol=0)
    torch.testing.assert_close(weights.sum(-1), torch.tensor([4.0, 4.0], dtype=torch.float64))
    assert float(rows.max() / rows.min()) > 1.01


def test_what_the_responses_share_weighs_more() -> None:
    case = random_case(0, lengths=(3, 3))
    states = case.states.clone()
    states[-1, 1, 1] = states[-1, 0, 2]
    weights = TransportWeighting(reg=0.1, states="reference")(case.but(states=states).tokens())
    assert weights[0].argmax() == 2
    assert weights[1].argmax() == 1


def test_a_transport_that_would_hardly_converge_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"takes 1389 steps a batch; raise reg to 0\.014 or more"):
        TransportWeighting(reg=0.01, reg_m=1.0)
    assert TransportWeighting(reg=1 / 70, reg_m=1.0).steps <= 1000
    assert TransportWeighting(reg=1e30, reg_m=1e-30).steps == 1
    assert TransportWeighting().requires == {Signal.LAST_STATES}
    assert TransportWeighting(states="reference").requires == {Signal.REF_HIDDEN_STATES}
