"""The rows of the zoo that test_papers has not, against their published formulas: other losses, f-divergences, LD-DPO
and the rows without a reference. New rows go here: a formula in PAIRWISE or OF_BATCHES, and a line in EXPECTED.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prefopt import ObjectiveConfig, TokenBatch, zoo
from prefopt.draws import uniform_draws
from tests.batches import Case, random_case
from tests.responses import (
    LN2,
    Expected,
    Response,
    assert_equal_with_gradients,
    build,
    log_sigmoid,
    mean,
    ones,
    respond,
)
from tests.zoo import test_papers, test_papers_tokens, test_papers_units

Formula = Callable[[Response, Response], Tensor]


def sigmoid(z: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-z))


def margin(beta: float, c: Response, j: Response) -> Tensor:
    return beta * (sum(c.r) - sum(j.r))


def nll(c: Response) -> Tensor:
    return -mean(c.logp)


def ld_dpo(c: Response, j: Response) -> Tensor:
    """Policy and reference alike: what lies beyond the length of the other response is raised to the power alpha."""
    shared = min(len(c.r), len(j.r))
    lc, lj = (sum(x.r[:shared]) + 0.25 * sum(x.r[shared:]) for x in (c, j))
    return -log_sigmoid(0.6 * (lc - lj))


def robust(c: Response, j: Response) -> Tensor:
    z = margin(0.3, c, j)
    return (-0.8 * log_sigmoid(z) + 0.2 * log_sigmoid(-z)) / (1 - 2 * 0.2)


def exo(c: Response, j: Response) -> Tensor:
    """KL of the policy's preference for the pair to the smoothed label, entry by entry."""
    ec, ej = torch.exp(0.6 * sum(c.r)), torch.exp(0.6 * sum(j.r))
    p = (ec / (ec + ej), ej / (ec + ej))
    return p[0] * torch.log(p[0] / 0.95) + p[1] * torch.log(p[1] / 0.05)


def nca(c: Response, j: Response) -> Tensor:
    rc, rj = 0.6 * sum(c.r), 0.6 * sum(j.r)
    return -log_sigmoid(rc) - (log_sigmoid(-rc) + log_sigmoid(-rj)) / 2


def bco_pair(c: Response, j: Response) -> Tensor:
    return -log_sigmoid(0.6 * sum(c.r)) - log_sigmoid(-0.6 * sum(j.r))


def sppo(c: Response, j: Response) -> Tensor:
    return (sum(c.r) - 1 / (2 * 0.2)) ** 2 + (sum(j.r) + 1 / (2 * 0.2)) ** 2


def apo_zero(c: Response, j: Response) -> Tensor:
    return 1 - sigmoid(0.6 * sum(c.r)) + sigmoid(0.6 * sum(j.r))


def apo_down(c: Response, j: Response) -> Tensor:
    return sigmoid(0.6 * sum(c.r)) + 1 - sigmoid(0.6 * (sum(c.r) - sum(j.r)))


def discopop(c: Response, j: Response) -> Tensor:
    """Its plain form, whose exponential overflows where ours does not."""
    z = margin(0.15, c, j)
    m = sigmoid(z / 0.4)
    return -(1 - m) * log_sigmoid(z) + m * torch.exp(-z)


def f_dpo(f_prime: Callable[[Tensor], Tensor]) -> Formula:
    """-log sigmoid(beta (f'(pi / pi_ref of c) - f'(pi / pi_ref of j)))."""

    def formula(c: Response, j: Response) -> Tensor:
        return -log_sigmoid(0.6 * (f_prime(torch.exp(sum(c.r))) - f_prime(torch.exp(sum(j.r)))))

    return formula


def simpo_margin(c: Response, j: Response) -> Tensor:
    return 2.5 * (mean(c.logp) - mean(j.logp)) - 1.4


def orpo(c: Response, j: Response) -> Tensor:
    pc, pj = torch.exp(mean(c.logp)), torch.exp(mean(j.logp))
    odds_ratio = (pc / (1 - pc)) / (pj / (1 - pj))
    return nll(c) - 0.3 * torch.log(sigmoid(torch.log(odds_ratio)))


def odpo(c: Response, j: Response) -> Tensor:
    return -log_sigmoid(margin(0.6, c, j) - 0.7 * torch.log(c.score - j.score))


def wpo(c: Response, j: Response) -> Tensor:
    """The geometric mean of pi(y_t) / sum_v pi(v)^2 for each response, and no gradient through either."""
    w = [
        torch.stack([torch.exp(p) / s for p, s in zip(x.logp, x.collision, strict=True)]).prod() ** (1 / len(x.logp))
        for x in (c, j)
    ]
    return -w[0].detach() * w[1].detach() * log_sigmoid(margin(0.6, c, j))


def t_reg(c: Response, j: Response) -> Tensor:
    """DPO and, under a weight without gradient, the cross entropy of every token with its reward in the data."""
    z = margin(0.6, c, j)
    term = sum(-0.6 * q * logp for x in (c, j) for q, logp in zip(x.token_rewards, x.logp, strict=True))
    return -log_sigmoid(z) + 0.4 * sigmoid(-z).detach() * term


PAIRWISE: dict[str, tuple[ObjectiveConfig, Formula]] = {
    "ld_dpo": (zoo.ld_dpo(beta=0.6, alpha=0.25), ld_dpo),
    "robust": (zoo.robust(beta=0.3, label_smoothing=0.2), robust),
    "rso": (zoo.rso(gamma=0.6), lambda c, j: torch.clamp(1 - margin(0.6, c, j), min=0)),
    "ipo_sum": (zoo.ipo_sum(beta=0.2), lambda c, j: (sum(c.r) - sum(j.r) - 1 / (2 * 0.2)) ** 2),
    "exo": (zoo.exo(beta=0.6, label_smoothing=0.05), exo),
    "nca": (zoo.nca(beta=0.6), nca),
    "bco_pair": (zoo.bco_pair(beta=0.6), bco_pair),
    "sppo": (zoo.sppo(beta=0.2), sppo),
    "apo_zero": (zoo.apo_zero(beta=0.6), apo_zero),
    "apo_down": (zoo.apo_down(beta=0.6), apo_down),
    "discopop": (zoo.discopop(beta=0.15, tau=0.4), discopop),
    "odpo": (zoo.odpo(beta=0.6, alpha=0.7), odpo),
    "wpo": (zoo.wpo(beta=0.6), wpo),
    "t_reg": (zoo.t_reg(beta=0.6, alpha=0.4), t_reg),
    "dpo_shift": (
        zoo.dpo_shift(beta=0.6, lam=0.4),
        lambda c, j: -log_sigmoid(0.6 * (sum(c.r) - 0.4 * sum(j.r))),
    ),
    "dpo_norm": (zoo.dpo_norm(beta=2.5), lambda c, j: -log_sigmoid(2.5 * (mean(c.r) - mean(j.r)))),
    "rpo": (zoo.rpo(beta=0.6, alpha=0.7), lambda c, j: -log_sigmoid(margin(0.6, c, j)) + 0.7 * nll(c)),
    "f_dpo_reverse_kl": (zoo.f_dpo_reverse_kl(beta=0.6), f_dpo(torch.log)),
    "f_dpo_forward_kl": (zoo.f_dpo_forward_kl(beta=0.6), f_dpo(lambda t: -1 / t)),
    "f_dpo_jensen_shannon": (zoo.f_dpo_jensen_shannon(beta=0.6), f_dpo(lambda t: torch.log(2 * t / (1 + t)))),
    # The paper's table has (1 - t^-b) / b; our alpha is 1 - b.
    "f_dpo_alpha": (zoo.f_dpo_alpha(beta=0.6, alpha=0.3), f_dpo(lambda t: (1 - t**-0.7) / 0.7)),
    "cpo": (
        zoo.cpo(beta=0.15, nll_weight=0.7),
        lambda c, j: -log_sigmoid(0.15 * (sum(c.logp) - sum(j.logp))) + 0.7 * nll(c),
    ),
    "cpo_simpo": (
        zoo.cpo_simpo(beta=2.5, gamma=1.4, nll_weight=0.7),
        lambda c, j: -log_sigmoid(simpo_margin(c, j)) + 0.7 * nll(c),
    ),
    "orpo": (zoo.orpo(lam=0.3), orpo),
    "slic": (
        zoo.slic(delta=1.5, lam=0.7),
        lambda c, j: torch.clamp(1.5 - sum(c.logp) + sum(j.logp), min=0) - 0.7 * sum(c.logp),
    ),
}


def quantiles(sorted_c: list[Tensor], sorted_j: list[Tensor], label_smoothing: float) -> Tensor:
    z = [c - j for c, j in zip(sorted_c, sorted_j, strict=True)]
    return torch.stack([-(1 - label_smoothing) * log_sigmoid(x) - label_smoothing * log_sigmoid(-x) for x in z])


def ordered(values: list[Tensor]) -> list[Tensor]:
    return sorted(values, key=Tensor.detach)


def aot(c: list[Response], j: list[Response]) -> Tensor:
    return quantiles(ordered([0.6 * sum(x.r) for x in c]), ordered([0.6 * sum(x.r) for x in j]), 0.2)


def aot_paired(c: list[Response], j: list[Response]) -> Tensor:
    policy = [0.6 * (sum(x.logp) - sum(y.logp)) for x, y in zip(c, j, strict=True)]
    reference = [0.6 * (sum(x.logp) - sum(x.r) - sum(y.logp) + sum(y.r)) for x, y in zip(c, j, strict=True)]
    return quantiles(ordered(policy), ordered([margin.detach() for margin in reference]), 0.2)


def bco(c: list[Response], j: list[Response]) -> Tensor:
    """At the first step, when the mean of all rewards is that of the batch."""
    good, bad = ([0.6 * sum(x.r) for x in side] for side in (c, j))
    delta = mean([reward.detach() for reward in [*good, *bad]])
    return torch.stack([-log_sigmoid(x - delta) - log_sigmoid(-(y - delta)) for x, y in zip(good, bad, strict=True)])


def mpo(c: list[Response], j: list[Response]) -> Tensor:
    preference = torch.stack([-log_sigmoid(margin(0.6, x, y)) for x, y in zip(c, j, strict=True)])
    return 0.7 * preference + 0.4 * bco(c, j) + 0.5 * torch.stack([nll(x) for x in c])


def beta_dpo(c: list[Response], j: list[Response]) -> Tensor:
    """The first step: running means a tenth of the batch's; of eight pairs the six of the highest weight and noise."""
    gaps = torch.stack([sum(x.r) - sum(y.r) for x, y in zip(c, j, strict=True)])
    margins = gaps.detach()
    middle, deviation = 0.1 * margins.mean(), 0.1 * margins.std(correction=min(1, len(c) - 1))
    draws = [uniform_draws(tokens, 1)[0, 0] + uniform_draws(tokens, 1)[1, 0] for tokens in map(ids_alone, c, j)]
    z = [(gap - middle) / deviation for gap in margins]
    ranked = [-(x**2) / 2 - torch.log(-torch.log(u % 1)) for x, u in zip(z, draws, strict=True)]
    count = max(1, 8 * len(c) // 10)
    kept = sorted(range(len(c)), key=lambda pair: -ranked[pair])[:count]
    beta = torch.clamp(0.6 * (1 + 0.3 * (margins[kept].mean() - middle)), min=1e-3)
    losses = [-log_sigmoid(beta * gap) * (len(c) / count if pair in kept else 0) for pair, gap in enumerate(gaps)]
    return torch.stack(losses)


def ids_alone(c: Response, j: Response) -> TokenBatch:
    """A pair as the draws see it."""
    mask = torch.arange(max(len(c.ids), len(j.ids))) < torch.tensor([[len(c.ids)], [len(j.ids)]])
    ids = torch.zeros(mask.shape, dtype=torch.long).masked_scatter(mask, torch.tensor([*c.ids, *j.ids]))
    nothing = torch.zeros(mask.shape, dtype=torch.float64)
    return TokenBatch(nothing, nothing, mask, ids)


OF_BATCHES: dict[str, tuple[ObjectiveConfig, Callable[[list[Response], list[Response]], Tensor]]] = {
    "aot": (zoo.aot(beta=0.6, label_smoothing=0.2), aot),
    "aot_paired": (zoo.aot_paired(beta=0.6, label_smoothing=0.2), aot_paired),
    "bco": (zoo.bco(beta=0.6), bco),
    "beta_dpo": (zoo.beta_dpo(beta=0.6, a=0.3), beta_dpo),
    "mpo": (zoo.mpo(beta=0.6, preference=0.7, quality=0.4, generation=0.5), mpo),
}


def near(seed: int, **shape: object) -> Case:
    """A case whose policy is not far from its reference, so that the plain forms do not overflow."""
    case = random_case(seed, **shape)
    return case.but(logits=case.ref_logits + 0.3 * case.logits)


def responses(case: Case) -> tuple[list[Response], list[Response]]:
    """The chosen responses and the rejected ones."""
    every = [respond(case, row, ones(case, row), ones(case, row)) for row in range(len(case.lengths))]
    return every[: case.pairs], every[case.pairs :]


def test_every_row_of_the_zoo_has_one_formula() -> None:
    pairwise = [*{name.partition("-")[0] for name in test_papers.PAPERS}, *PAIRWISE, *test_papers_tokens.PAIRWISE]
    names = [*pairwise, *OF_BATCHES, *test_papers_units.ROWS, *test_papers_units.LEARNED]
    assert sorted(names) == sorted(zoo.ZOO)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", PAIRWISE)
def test_value_and_gradients_are_the_papers(name: str, seed: int) -> None:
    config, formula = PAIRWISE[name]
    case = near(seed)
    losses = [formula(c, j) for c, j in zip(*responses(case), strict=True)]
    assert_equal_with_gradients(case, build(config), torch.stack(losses))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", OF_BATCHES)
def test_value_and_gradients_of_coupled_pairs_are_the_papers(name: str, seed: int) -> None:
    config, formula = OF_BATCHES[name]
    case = random_case(seed, lengths=(4, 1, 6, 2, 5, 3, 7, 2, 3, 6, 2, 5, 1, 4, 3, 3))
    losses = formula(*responses(case))
    assert_equal_with_gradients(case, build(config), losses)
    alone = torch.cat([formula([c], [j]) for c, j in zip(*responses(case), strict=True)])
    assert (alone.sort().values - losses.sort().values).abs().max() > 1e-3, "the pairs might as well be uncoupled"


EXPECTED = {
    "ld_dpo": Expected({"beta": 0.1, "alpha": 0.5}, at_reference=LN2, swapped=1.0),
    "robust": Expected({"beta": 0.1, "label_smoothing": 0.1}, at_reference=LN2, swapped=1 / (1 - 2 * 0.1)),
    "rso": Expected({"gamma": 0.05}, at_reference=1.0, swapped=None),
    "ipo_sum": Expected({"beta": 0.1}, at_reference=1 / (4 * 0.1**2), swapped=4 / (2 * 0.1)),
    "exo": Expected(
        {"beta": 0.1, "label_smoothing": 1e-3}, at_reference=-LN2 - math.log(1e-3 * (1 - 1e-3)) / 2, swapped=None
    ),
    "nca": Expected({"beta": 0.1}, at_reference=2 * LN2, swapped=None),
    "bco_pair": Expected({"beta": 0.1}, at_reference=2 * LN2, swapped=1.0),
    "sppo": Expected({"beta": 0.1}, at_reference=2 / (4 * 0.1**2), swapped=4 / (2 * 0.1)),
    "apo_zero": Expected({"beta": 0.1}, at_reference=1.0, swapped=None),
    "apo_down": Expected({"beta": 0.1}, at_reference=1.0, swapped=None),
    "aot": Expected({"beta": 0.1, "label_smoothing": 0.0}, at_reference=LN2, swapped=1.0),
    "aot_paired": Expected({"beta": 0.1, "label_smoothing": 0.0}, at_reference=LN2, swapped=None),
    "bco": Expected({"beta": 0.1}, at_reference=2 * LN2, swapped=1.0),
    "beta_dpo": Expected({"beta": 0.1, "a": 0.6, "drop": 0.2}, at_reference=None, swapped=None),
    "dpo_shift": Expected({"beta": 0.1, "lam": 0.7}, at_reference=LN2, swapped=None),
    "odpo": Expected({"beta": 0.1, "alpha": 1.0}, at_reference=None, swapped=None),
    "wpo": Expected({"beta": 0.1}, at_reference=None, swapped=None),
    "t_reg": Expected({"beta": 0.1, "alpha": 0.25}, at_reference=None, swapped=None),
    "mpo": Expected(
        {"beta": 0.1, "preference": 0.8, "quality": 0.2, "generation": 1.0},
        at_reference=0.8 * LN2 + 0.2 * 2 * LN2,
        swapped=None,
    ),
    "slic": Expected({"delta": 1.0, "lam": 1.0}, at_reference=None, swapped=None),
    "f_dpo_reverse_kl": Expected({"beta": 0.1}, at_reference=LN2, swapped=1.0),
    "discopop": Expected({"beta": 0.05, "tau": 0.05}, at_reference=(LN2 + 1) / 2, swapped=None),
    "dpo_norm": Expected({"beta": 5.0}, at_reference=LN2, swapped=1.0),
    "rpo": Expected({"beta": 0.1, "alpha": 1.0}, at_reference=LN2, swapped=None),
    "f_dpo_forward_kl": Expected({"beta": 0.1}, at_reference=LN2, swapped=1.0),
    "f_dpo_jensen_shannon": Expected({"beta": 0.1}, at_reference=LN2, swapped=1.0),
    "f_dpo_alpha": Expected({"beta": 0.1, "alpha": 0.5}, at_reference=LN2, swapped=1.0),
    "cpo": Expected({"beta": 0.1, "nll_weight": 1.0}, at_reference=None, swapped=None),
    "cpo_simpo": Expected({"beta": 2.0, "gamma": 1.0, "nll_weight": 1.0}, at_reference=None, swapped=None),
    "orpo": Expected({"lam": 0.1}, at_reference=None, swapped=None),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_defaults_are_the_papers_settings(name: str) -> None:
    assert zoo.ZOO[name]() == zoo.ZOO[name](**EXPECTED[name].defaults)


def test_every_row_has_its_defaults_written_down() -> None:
    others = [*test_papers.EXPECTED, *test_papers_tokens.EXPECTED, *test_papers_units.EXPECTED]
    assert sorted([*others, *EXPECTED]) == sorted(zoo.ZOO)
