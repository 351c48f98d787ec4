"""Weightings that take something away from a mask: its aim, its sight, or all that it knows."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from prefopt import Objective, ObjectiveConfig, TokenBatch, resolve
from prefopt.component import TokenWeighting, weights_and_penalty
from prefopt.draws import uniform_draws
from prefopt.weightings import (
    ColumnWeighting,
    PositionWeighting,
    RandomWeighting,
    ShuffledWeighting,
    SparseWeighting,
    UniformWeighting,
)
from tests.batches import random_case


def long_batch(rows: int = 200, width: int = 100) -> TokenBatch:
    """Responses of all lengths up to the width, over a small vocabulary."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (rows, width), generator=draw)
    mask = torch.arange(width) < torch.randint(1, width + 1, (rows, 1), generator=draw)
    return TokenBatch(torch.zeros(rows, width), torch.zeros(rows, width), mask, ids)


def test_draws_are_even_and_hang_on_nothing_but_response_place_and_seed() -> None:
    tokens = long_batch()
    draws = uniform_draws(tokens, 0)
    kept = draws[tokens.mask].double()
    assert (kept >= 0).all()
    assert (kept < 1).all()
    counts = torch.histc(kept.float(), bins=20, min=0, max=1)
    expected = len(kept) / 20
    assert float(((counts - expected) ** 2 / expected).sum()) < 43.8  # chi-square of 19, one in a thousand
    # Neighbours in a response, the same place in two responses and two seeds are all unrelated.
    pairs = tokens.mask[:, 1:]
    others = {
        "neighbour": (draws[:, :-1][pairs], draws[:, 1:][pairs]),
        "response": (draws[:-1][tokens.mask[:-1] & tokens.mask[1:]], draws[1:][tokens.mask[:-1] & tokens.mask[1:]]),
        "seed": (kept, uniform_draws(tokens, 1)[tokens.mask]),
    }
    for name, (one, two) in others.items():
        assert abs(float(torch.corrcoef(torch.stack([one.double(), two.double()]))[0, 1])) < 0.04, name
    assert torch.equal(uniform_draws(tokens, 0), draws)
    again = tokens.token_ids.clone()
    again[:, 0] += 1
    changed = uniform_draws(tokens.replace(token_ids=again), 0)
    assert (changed != draws)[tokens.mask].float().mean() > 0.99


def test_random_weights_are_those_of_the_response() -> None:
    tokens = long_batch()
    weights = RandomWeighting(seed=3)(tokens)
    assert float(weights[tokens.mask].mean()) == pytest.approx(0.5, abs=0.02)
    assert not weights[~tokens.mask].any()
    part = tokens.replace(
        **{name: getattr(tokens, name)[[5, 2]] for name in ("logps", "ref_logps", "mask", "token_ids")}
    )
    assert torch.equal(RandomWeighting(seed=3)(part), weights[[5, 2]])
    assert not torch.equal(RandomWeighting(seed=4)(tokens), weights)


def test_shuffled_weights_are_the_others_in_another_order() -> None:
    tokens = long_batch()
    given = torch.rand(tokens.mask.shape)
    tokens = tokens.replace(columns={"weights": given})
    plain = ColumnWeighting()(tokens)
    shuffled = ShuffledWeighting(weighting=ColumnWeighting()).build(num_layers=1, hidden_size=1)(tokens)
    assert not shuffled[~tokens.mask].any()
    for row, other, mask in zip(shuffled, plain, tokens.mask, strict=True):
        assert torch.equal(row[mask].sort().values, other[mask].sort().values)
    both = torch.stack([shuffled[tokens.mask], plain[tokens.mask]])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.04
    # Any place may come from any other: over many responses of one length, evenly.
    same = TokenBatch(
        *(torch.zeros(4000, 4) for _ in range(2)),
        torch.ones(4000, 4, dtype=torch.bool),
        torch.randint(1000, (4000, 4), generator=torch.Generator().manual_seed(1)),
        columns={"weights": torch.arange(4.0).expand(4000, 4)},
    )
    moved = ShuffledWeighting(weighting=ColumnWeighting(), seed=2).build(num_layers=1, hidden_size=1)(same)
    shares = torch.stack([(moved == value).float().mean(0) for value in range(4)])
    torch.testing.assert_close(shares, torch.full((4, 4), 0.25), atol=0.03, rtol=0)


def test_a_shuffled_mask_learns_charges_and_needs_what_the_mask_does() -> None:
    mask = SparseWeighting(position="token", gate="binary", init="near_one", l0=0.5)
    weighting = resolve(TokenWeighting, {"name": "shuffled", "weighting": mask.model_dump(), "seed": 7})
    assert weighting == ShuffledWeighting(weighting=mask, seed=7)
    assert weighting.requires == mask.requires
    case = random_case(3)
    objective = Objective(ObjectiveConfig(weighting=weighting), num_layers=3, hidden_size=5).double()
    plain = Objective(ObjectiveConfig(weighting=mask), num_layers=3, hidden_size=5).double()
    assert torch.equal(
        weights_and_penalty(objective.weighting, case.tokens())[1],
        weights_and_penalty(plain.weighting, case.tokens())[1],
    )
    objective(case.tokens()).loss.backward()
    assert all(parameter.grad.any() for parameter in objective.weighting.parameters() if parameter.dim() == 2)
    column = ShuffledWeighting(weighting=ColumnWeighting(column="truth"))
    assert column.columns == ColumnWeighting(column="truth").columns


def test_weights_by_position_by_hand() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    tokens = TokenBatch(torch.zeros(4, 5), torch.zeros(4, 5), mask, mask.long())
    weights = PositionWeighting(values=(2.0, 0.0, 1.0), learned=False)(tokens)
    expected = [[2, 1, 0, 0.5, 1], [2, 0, 1, 0, 0], [2, 0, 0, 0, 0], [2, 1, 0, 0, 0]]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(PositionWeighting(values=(0.5,), learned=False)(tokens), UniformWeighting(value=0.5)(tokens))


def test_a_curve_of_positions_starts_as_given_and_learns() -> None:
    case = random_case(4, dtype=torch.float32)
    for values in ((1.0, 1.0, 1.0), (0.25, 3.0)):
        curve = PositionWeighting(values=values).build(num_layers=3, hidden_size=5)
        given = PositionWeighting(values=values, learned=False)(case.tokens())
        torch.testing.assert_close(curve(case.tokens()), given)
        curve(case.tokens()).sum().backward()
        assert (curve.free.grad > 0).all()
    with pytest.raises(ValidationError, match="a learned value starts above 0"):
        PositionWeighting(values=(1.0, 0.0))
