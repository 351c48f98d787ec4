"""A floor under a mask: the level by hand, what it leaves alone, and what can no longer happen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prefopt import Objective, zoo
from prefopt.tokens import masked_mean
from prefopt.weightings import SparseWeighting
from prefopt.weightings.sparse import SparseMask
from prefopt.weightings.sparse.floor import raised
from tests.batches import random_case

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)


def weights(scores: list[float], floor: float, mask: Tensor = MASK) -> list[float]:
    return torch.relu(raised(torch.tensor(scores, dtype=torch.float64), mask, floor)).tolist()


def built(seed: int, **fields: object) -> SparseMask:
    torch.manual_seed(seed)
    return SparseWeighting(init="near_one", **fields).build(num_layers=3, hidden_size=5)


def test_the_level_by_hand() -> None:
    """Of five tokens and a floor of 0.4 the weights sum to 2; of two tokens, to 0.8."""
    above = [3.0, -1.0, 0.0, 0.0, 0.0, 0.5, 0.3]
    assert weights(above, 0.4) == pytest.approx([3, 0, 0, 0, 0, 0.5, 0.3]), "at or above the floor nothing changes"
    assert weights([-5.0, -6.0, -8.0, -9.0, -9.0, 0.2, 0.0], 0.4) == pytest.approx([1.5, 0.5, 0, 0, 0, 0.5, 0.3])
    assert weights([0.1, -9.0, -9.0, -9.0, -9.0, -1.0, -9.0], 0.4) == pytest.approx([2, 0, 0, 0, 0, 0.8, 0])
    assert weights([-7.0] * 7, 0.4) == pytest.approx([0.4] * 7)


@pytest.mark.parametrize("seed", range(5))
def test_raised_weights_are_the_nearest_of_their_mean(seed: int) -> None:
    """As a projection they satisfy its conditions: one number is added where the weight is above zero, and elsewhere
    that number is not enough. Gradients are those of finite differences."""
    torch.manual_seed(seed)
    scores = torch.randn(7, dtype=torch.float64) - 1
    result = torch.relu(raised(scores, MASK, 0.7))
    for part, kept in ((slice(0, 5), scores[:5]), (slice(5, 7), scores[5:])):
        if torch.relu(kept).mean() >= 0.7:
            assert torch.equal(result[part], torch.relu(kept))
            continue
        level = (result[part] - kept)[result[part] > 0]
        assert float(result[part].mean()) == pytest.approx(0.7)
        torch.testing.assert_close(level, level[0].expand_as(level))
        assert (kept + level[0] <= 1e-12)[result[part] == 0].all()
    leaf = scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: torch.relu(raised(s, MASK, 0.7)), leaf)


def test_a_gradient_that_all_weights_share_does_nothing_at_the_floor() -> None:
    """So L1 acts above it alone."""
    leaf = torch.tensor([-5.0, -6.0, -8.0, -9.0, -9.0, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    total = torch.relu(raised(leaf, MASK, 0.4)).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    assert gradient.tolist() == pytest.approx([0, 0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("position", ["predicting", "embedding"])
def test_no_parameters_make_a_mask_with_a_floor_dead(position: str) -> None:
    """Whatever the layers' scores and the signs of their mixture, every response has its mean, and the mask a gradient
    by which tokens gain on others."""
    tokens = random_case(3, dtype=torch.float32).tokens()
    mask = built(3, floor=0.3, position=position)
    with torch.no_grad():
        mask.weight.normal_()
        mask.bias.fill_(50.0)
        mask.mixer.neg_()
    result = mask(tokens)
    lone = tokens.mask.sum(-1) == 1
    torch.testing.assert_close(masked_mean(result, tokens.mask), torch.full((len(result),), 0.3))
    assert not result[~tokens.mask].any()
    result.square().sum().backward()
    assert mask.weight.grad.abs().max() > 1e-3
    torch.testing.assert_close(result[lone, 0], torch.full((int(lone.sum()),), 0.3))


def test_a_floor_below_the_mean_changes_nothing() -> None:
    tokens = random_case(4, dtype=torch.float32).tokens()
    masks = [built(4, position="embedding", architecture="two_layer", floor=floor) for floor in (0.0, 0.3)]
    assert torch.equal(*(mask(tokens) for mask in masks))


@pytest.mark.slow
def test_l1_alone_stops_at_the_floor() -> None:
    """Where the policy is the reference, nothing but L1 moves the mask: without a floor, to its death."""
    tokens = random_case(5, dtype=torch.float32).tokens()
    means = {}
    for floor in (0.0, 0.3):
        torch.manual_seed(5)
        objective = Objective(zoo.sparsepo_token(floor=floor), num_layers=3, hidden_size=5)
        optimizer = torch.optim.Adam(objective.parameters(), lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            objective.at_reference(tokens).loss.backward()
            optimizer.step()
        means[floor] = masked_mean(objective.at_reference(tokens).weights, tokens.mask)
    assert not means[0.0].any()
    assert float(means[0.3].min()) == pytest.approx(0.3)
