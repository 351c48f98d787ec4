"""Rows that compare parts of two responses, against their formulas written out pair by pair and token by token."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefopt import Objective, ObjectiveConfig, zoo
from tests.batches import Case, random_case
from tests.responses import (
    LN2,
    Expected,
    PairFormula,
    assert_equal_with_gradients,
    build,
    log_sigmoid,
    mean,
    unweighted,
)


def column(case: Case, name: str, row: int) -> list[float]:
    """A column's numbers for the tokens of a response."""
    return case.tokens().columns[name][row, : case.lengths[row]].tolist()


def tbpo(lam: float, s: float) -> PairFormula:
    def formula(case: Case, row: int, other: int) -> Tensor:
        c, j = unweighted(case, row), unweighted(case, other)
        terms = []
        for t in range(min(len(c.r), len(j.r))):
            ratio = torch.exp(0.6 * (j.r[t] - c.r[t] + j.k[t] - c.k[t]))
            if lam:
                terms.append(ratio ** (lam + 1) / (s * (lam + 1)) - (ratio**-lam - 1) / (s * lam))
            else:
                terms.append((ratio + torch.log(ratio)) / s)
        return mean(terms)

    return formula


def dpo_2d(case: Case, row: int, other: int) -> Tensor:
    """Segments sorted by score, the highest of the chosen response against the lowest of the rejected one."""

    def segments(index: int) -> list[tuple[float, Tensor]]:
        values, numbers, scores = (
            unweighted(case, index).r,
            column(case, "segment", index),
            column(case, "score", index),
        )
        names = [number for number in dict.fromkeys(numbers) if number >= 0]
        of_segment = {name: [t for t, number in enumerate(numbers) if number == name] for name in names}
        return [(scores[ts[0]], 0.6 * scores[ts[0]] * sum(values[t] for t in ts)) for ts in of_segment.values()]

    best = sorted(segments(row), key=lambda segment: -segment[0])
    worst = sorted(segments(other), key=lambda segment: segment[0])
    links = [-log_sigmoid(c - j) for (_, c), (_, j) in zip(best, worst, strict=False)]
    return sum(links, start=0 * unweighted(case, row).r[0])


def aw_dpo(case: Case, row: int, other: int) -> Tensor:
    columns, pair = case.tokens().columns, row
    gaps = [columns["gap_reasoning"][pair], columns["gap_answer"][pair]]
    losses, weights = [], []
    for part, gap in enumerate(gaps):
        of_part = [
            [
                r
                for r, number in zip(unweighted(case, index).r, column(case, "part", index), strict=True)
                if number == part
            ]
            for index in (row, other)
        ]
        if all(of_part):
            losses.append(-gap * log_sigmoid(0.6 * (sum(of_part[0]) - sum(of_part[1]))))
            weights.append(gap)
    return sum(losses, start=0 * unweighted(case, row).r[0]) / (sum(weights) if weights else 1)


def contrastive(case: Case, row: int, other: int) -> Tensor:
    """The released mean over a padded length, less ln 2 for each position without a token, times that length."""
    c, j, padded_length = unweighted(case, row), unweighted(case, other), 13
    w, nothing = column(case, "weights", other), torch.zeros((), dtype=torch.float64)
    chosen = [*(value * weight for value, weight in zip(c.r, column(case, "weights", row), strict=True))]
    rejected = [weight * r for weight, r in zip(w, j.r, strict=True)]
    chosen, rejected = ([*values, *[nothing] * (padded_length - len(values))] for values in (chosen, rejected))
    released = mean([-log_sigmoid(0.6 * (one - two)) for one, two in zip(chosen, rejected, strict=True)])
    return released * padded_length - (padded_length - max(len(c.r), len(j.r))) * math.log(2)


ROWS: dict[str, tuple[ObjectiveConfig, PairFormula]] = {
    "tbpo_a": (zoo.tbpo_a(beta=0.6), tbpo(0, 4)),
    "dpo_2d": (zoo.dpo_2d(beta=0.6), dpo_2d),
    "aw_dpo": (zoo.aw_dpo(beta=0.6), aw_dpo),
    "contrastive_dpo_released": (zoo.contrastive_dpo_released(beta=0.6), contrastive),
}
SETTINGS = ROWS | {"tbpo_a-basu": (zoo.tbpo_a(beta=0.6, lam=0.7, s=3), tbpo(0.7, 3))}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_value_and_gradients_are_the_papers(name: str, seed: int) -> None:
    config, formula = SETTINGS[name]
    case = random_case(seed, lengths=(4, 1, 6, 7, 2, 5, 3, 8))
    case = case.but(logits=case.ref_logits + 0.3 * case.logits)
    losses = [formula(case, row, row + case.pairs) for row in range(case.pairs)]
    assert_equal_with_gradients(case, build(config), torch.stack(losses))


def tbpo_q(case: Case, row: int, other: int, head: Tensor, limit: float) -> Tensor:
    """The release's: log R_t = beta (l_j,t - l_c,t + c_t), c_t centred, then clamped; its constant cancels."""
    c, j = unweighted(case, row), unweighted(case, other)
    states, constant = case.others["last_states"].detach(), 0.3
    baselines = [
        [sum(head[i] * states[index, t, i] for i in range(len(head))) + constant for t in range(case.lengths[index])]
        for index in (row, other)
    ]
    shared = range(min(len(c.r), len(j.r)))
    raw = [baselines[1][t] - baselines[0][t] for t in shared]
    centred = [torch.clamp(value - mean(raw), -limit, limit) for value in raw]
    log_ratios = [0.6 * (j.r[t] - c.r[t] + centred[t]) for t in shared]
    return mean([(torch.exp(log_ratio) + log_ratio) / 4 for log_ratio in log_ratios])


LEARNED = {"tbpo_q": tbpo_q}
"""Rows whose formula reads what is learned."""


@pytest.mark.parametrize("limit", [10.0, 0.4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_learned_baseline_is_the_release_s_in_value_and_gradients(seed: int, limit: float) -> None:
    case = random_case(seed, lengths=(4, 1, 6, 7, 2, 5, 3, 8))
    case = case.but(logits=case.ref_logits + 0.3 * case.logits)
    states = case.others["last_states"].requires_grad_()
    objective = build(zoo.tbpo_q(beta=0.6, limit=limit))
    (head,) = objective.parameters()
    formula = LEARNED["tbpo_q"]
    losses = [formula(case, row, row + case.pairs, head, limit) for row in range(case.pairs)]
    assert_equal_with_gradients(case, objective, torch.stack(losses))
    output = objective(case.tokens())
    assert torch.autograd.grad(output.loss, states, allow_unused=True) == (None,)
    assert (output.metrics["units/limited"].value > 0) == (limit < 1)
    margins = output.rewards.view(2, -1).diff(dim=0)[0]
    assert output.metrics["rewards/margins"].value == pytest.approx(-margins.mean().item())


def test_a_learned_baseline_at_zero_is_no_baseline_and_not_dead() -> None:
    case = random_case(6)
    start = Objective(zoo.tbpo_q(), num_layers=3, hidden_size=5).double()
    plain = zoo.build({"zoo": "tbpo_a", "divergence": None})
    output, without = start(case.tokens()), build(plain)(case.tokens())
    assert torch.equal(output.losses, without.losses)
    assert torch.equal(output.rewards, without.rewards)
    (slope,) = torch.autograd.grad(output.loss, list(start.parameters()))
    assert slope.abs().max() > 1e-4
    alike = case.tokens().replace(logps=case.tokens().ref_logps)
    (slope,) = torch.autograd.grad(start(alike).loss, list(start.parameters()))
    assert slope.abs().max() < 1e-15  # as a mask's: it learns once the policy has moved


EXPECTED = {
    "tbpo_a": Expected({"beta": 0.1, "lam": 0.0, "s": 4.0}, at_reference=1 / 4, swapped=None),
    "tbpo_q": Expected({"beta": 0.1, "lam": 0.0, "s": 4.0, "limit": 10.0}, at_reference=1 / 4, swapped=None),
    "dpo_2d": Expected({"beta": 0.1}, at_reference=None, swapped=None),
    "aw_dpo": Expected({"beta": 0.1}, at_reference=LN2, swapped=None),
    "contrastive_dpo_released": Expected({"beta": 0.1}, at_reference=None, swapped=1.0),
}


def test_the_link_at_the_reference_is_ln_2_for_each_two_partners() -> None:
    case = random_case(4)
    for name in ("dpo_2d", "contrastive_dpo_released"):
        output = build(ROWS[name][0]).at_reference(case.tokens())
        assert output.loss.item() == pytest.approx(LN2 * output.metrics["units/compared"].value)
    longest = [max(case.lengths[pair], case.lengths[pair + 3]) for pair in range(3)]
    torch.testing.assert_close(output.losses, LN2 * torch.tensor(longest, dtype=torch.float64))


@pytest.mark.parametrize("name", EXPECTED)
def test_defaults_are_the_papers_settings(name: str) -> None:
    assert zoo.ZOO[name]() == zoo.ZOO[name](**EXPECTED[name].defaults)
