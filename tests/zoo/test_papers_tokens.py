"""Rows that select or weigh tokens by what the models, the data or the other response say, against their formulas
written out token by token.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefopt import ObjectiveConfig, zoo
from prefopt.weightings import RandomWeighting
from tests.batches import Case, random_case
from tests.responses import (
    LN2,
    Expected,
    PairFormula,
    Response,
    assert_equal_with_gradients,
    build,
    log_sigmoid,
    mean,
    unweighted,
)


def weighted(weights: list[Tensor], values: list[Tensor]) -> Tensor:
    return sum(w * x for w, x in zip(weights, values, strict=True))


def unlikely(x: Response) -> list[int]:
    """The tokens below the response's mean probability."""
    chances = [math.exp(float(p.detach())) for p in x.logp]
    return [t for t, chance in enumerate(chances) if chance < sum(chances) / len(chances) - 1e-12]


def confpo(case: Case, row: int, other: int) -> Tensor:
    c, j = unweighted(case, row), unweighted(case, other)
    kept = unlikely(c), unlikely(j)
    if not all(kept):
        return -log_sigmoid(torch.tensor(-1.4, dtype=torch.float64))
    means = [mean([x.logp[t] for t in selected]) for x, selected in zip((c, j), kept, strict=True)]
    return -log_sigmoid(2.5 * (means[0] - means[1]) - 1.4)


def poet(case: Case, row: int, other: int) -> Tensor:
    c, j = unweighted(case, row), unweighted(case, other)
    shorter = min(len(c.r), len(j.r))
    return -log_sigmoid(0.6 * (sum(c.r[:shorter]) - sum(j.r[:shorter])))


def sampo(case: Case, row: int, other: int) -> Tensor:
    """As many tokens as the shorter response has: those of the lowest random numbers."""
    c, j = unweighted(case, row), unweighted(case, other)
    draws = RandomWeighting(seed=3)(case.tokens())
    sums = []
    for x, index in ((c, row), (j, other)):
        order = sorted(range(len(x.r)), key=lambda t, index=index: float(draws[index, t]))
        sums.append(sum(x.r[t] for t in order[: min(len(c.r), len(j.r))]))
    return -log_sigmoid(0.6 * (sums[0] - sums[1]))


def otpo(case: Case, row: int, other: int) -> Tensor:
    """The plan by alternate scaling of its kernel's rows and columns, as in Sinkhorn's algorithm."""
    c, j = unweighted(case, row), unweighted(case, other)
    hc, hj = (list(case.others["last_states"][index, : case.lengths[index]]) for index in (row, other))
    costs = [[torch.dist(a, b) for b in hj] for a in hc]
    largest = max([1.0, *(float(cost) for line in costs for cost in line), *(float(h.norm()) for h in [*hc, *hj])])
    kernel = [[math.exp(-float(cost) / largest / 0.5) for cost in line] for line in costs]
    u, v = [1.0] * len(hc), [1.0] * len(hj)
    for _ in range(200):
        v = [sum(u[s] * kernel[s][t] for s in range(len(u))) ** -(0.3 / 0.8) for t in range(len(v))]
        u = [sum(kernel[s][t] * v[t] for t in range(len(v))) ** -(0.3 / 0.8) for s in range(len(u))]
    plan = [[u[s] * kernel[s][t] * v[t] for t in range(len(v))] for s in range(len(u))]
    scale = min(len(u), len(v)) / sum(map(sum, plan))
    wc = [torch.tensor(scale * sum(line), dtype=torch.float64) for line in plan]
    wj = [torch.tensor(scale * sum(line[t] for line in plan), dtype=torch.float64) for t in range(len(v))]
    return -log_sigmoid(0.6 * (weighted(wc, c.r) - weighted(wj, j.r)))


def ti_dpo(case: Case, row: int, other: int) -> Tensor:
    """Half gradients, half a bell of deviation T / 4, each of mean one; TDPO2's divergence without weights."""
    c, j = unweighted(case, row), unweighted(case, other)
    sums = []
    for x, index in ((c, row), (j, other)):
        norms = [abs(float(g)) for g in case.others["input_gradient"][index, : len(x.r)]]
        bell = [math.exp(-(((t - (len(x.r) - 1) / 2) / max(1, len(x.r) / 4)) ** 2) / 2) for t in range(len(x.r))]
        weights = [len(x.r) * (0.6 * g / sum(norms) + 0.4 * p / sum(bell)) for g, p in zip(norms, bell, strict=True)]
        sums.append(weighted([torch.tensor(w, dtype=torch.float64) for w in weights], x.r))
    return -log_sigmoid(0.3 * (sums[0] - sums[1]) - 0.7 * 0.3 * (sum(j.k) - sum(c.k).detach()))


def mask_dpo(case: Case, row: int, other: int) -> Tensor:
    c, j = unweighted(case, row), unweighted(case, other)
    return -log_sigmoid(0.6 * (weighted(c.weights, c.r) - weighted(j.weights, j.r)))


PAIRWISE: dict[str, tuple[ObjectiveConfig, PairFormula]] = {
    "confpo": (zoo.confpo(beta=2.5, gamma=1.4), confpo),
    "poet": (zoo.poet(beta=0.6), poet),
    "sampo": (zoo.sampo(beta=0.6, seed=3), sampo),
    "otpo": (zoo.otpo(beta=0.6, reg=0.5, reg_m=0.3), otpo),
    "ti_dpo": (zoo.ti_dpo(beta=0.3, alpha=0.7, lam=0.6), ti_dpo),
    "mask_dpo": (zoo.mask_dpo(beta=0.6), mask_dpo),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", PAIRWISE)
def test_value_and_gradients_are_the_papers(name: str, seed: int) -> None:
    config, formula = PAIRWISE[name]
    case = random_case(seed, lengths=(4, 1, 6, 2, 5, 5, 3, 6, 3, 2))
    losses = [formula(case, pair, pair + case.pairs) for pair in range(case.pairs)]
    assert_equal_with_gradients(case, build(config), torch.stack(losses))


EXPECTED = {
    "confpo": Expected({"beta": 1.5, "gamma": 1.6}, at_reference=None, swapped=None),
    "poet": Expected({"beta": 0.1}, at_reference=LN2, swapped=1.0),
    "sampo": Expected({"beta": 0.1, "seed": 0}, at_reference=LN2, swapped=1.0),
    "otpo": Expected({"beta": 0.1, "reg": 1.0, "reg_m": 0.2}, at_reference=LN2, swapped=1.0),
    "ti_dpo": Expected({"beta": 0.1, "alpha": 0.5, "lam": 0.7}, at_reference=LN2, swapped=1.0),
    "mask_dpo": Expected({"beta": 0.1}, at_reference=LN2, swapped=1.0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_defaults_are_the_papers_settings(name: str) -> None:
    assert zoo.ZOO[name]() == zoo.ZOO[name](**EXPECTED[name].defaults)
