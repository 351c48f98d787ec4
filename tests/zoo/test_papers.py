"""DPO, what is nearest to it, and the objectives with a token axis equal their published formulas, written out response
by response; test_papers_losses has the other rows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prefopt import Objective, ObjectiveConfig, zoo
from prefopt.tokens import masked_mean
from tests.batches import KINDS, Case, random_case
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

Formula = Callable[[Response, Response], Tensor]


def dot(weights: list[Tensor], values: list[Tensor]) -> Tensor:
    return sum((w * x for w, x in zip(weights, values, strict=True)), start=torch.zeros(()))


def simpo(c: Response, j: Response) -> Tensor:
    return -log_sigmoid(2.5 * mean(c.logp) - 2.5 * mean(j.logp) - 1.4)


def dpo_margin(beta: float, c: Response, j: Response) -> Tensor:
    return beta * (sum(c.r) - sum(j.r))


def cdpo(c: Response, j: Response) -> Tensor:
    z = dpo_margin(0.3, c, j)
    return -0.8 * log_sigmoid(z) - 0.2 * log_sigmoid(-z)


def dpop(c: Response, j: Response) -> Tensor:
    fall = torch.clamp(-sum(c.r), min=0)
    return -log_sigmoid(0.02 * (sum(c.r) - sum(j.r) - 50 * fall))


def tdpo2(c: Response, j: Response) -> Tensor:
    return -log_sigmoid(dpo_margin(0.3, c, j) - 0.7 * 0.3 * (sum(j.k) - sum(c.k).detach()))


def masked(c: Response, j: Response) -> Tensor:
    u = 0.8 * (dot(c.m, c.r) - dot(j.m, j.r))
    return -log_sigmoid(u - 0.8 * (dot(j.d, j.k) - dot(c.d, c.k)))


def held(c: Response, j: Response) -> Tensor:
    u = 0.8 * (dot(c.m, c.r) - dot(j.m, j.r))
    return -log_sigmoid(u - 0.7 * 0.8 * (sum(j.k) - sum(c.k).detach())) + 0.8 * 0.02 * (sum(c.m) + sum(j.m))


def common(c: Response, j: Response) -> Tensor:
    return masked(c, j) + (0.02 * (sum(c.m) + sum(j.m)) + 0.05 * (sum(c.d) + sum(j.d))) / 2


def independent(c: Response, j: Response) -> Tensor:
    return masked(c, j) + 0.02 * (sum(c.m) + sum(j.m)) + 0.05 * (sum(c.d) + sum(j.d))


def l1(shared: bool) -> ObjectiveConfig:
    return zoo.sparsepo(beta=0.8, shared=shared, l1_reward=0.02, l1_divergence=0.05)


NARROW = {"zoo": "sparsepo_token", "beta": 0.8, "alpha": 0.7, "l1": 0.02, "weighting": {"hidden_width": 4}}

PAPERS: dict[str, tuple[ObjectiveConfig, Formula]] = {
    "dpo": (zoo.dpo(beta=0.3), lambda c, j: -log_sigmoid(dpo_margin(0.3, c, j))),
    "cdpo": (zoo.cdpo(beta=0.3, label_smoothing=0.2), cdpo),
    "hinge": (zoo.hinge(beta=0.3), lambda c, j: torch.clamp(1 - dpo_margin(0.3, c, j), min=0)),
    "ipo": (zoo.ipo(beta=0.2), lambda c, j: (mean(c.r) - mean(j.r) - 1 / (2 * 0.2)) ** 2),
    "simpo": (zoo.simpo(beta=2.5, gamma=1.4), simpo),
    "dpop": (zoo.dpop(beta=0.02, lam=50), dpop),
    "tdpo1": (
        zoo.tdpo1(beta=0.3),
        lambda c, j: -log_sigmoid(dpo_margin(0.3, c, j) - 0.3 * (sum(j.k) - sum(c.k))),
    ),
    "tdpo2": (zoo.tdpo2(beta=0.3, alpha=0.7), tdpo2),
    "mapo": (zoo.mapo(beta=0.8), masked),
    "sparsepo": (l1(shared=True), common),
    "sparsepo-independent": (l1(shared=False), independent),
    "sparsepo_token": (zoo.build(NARROW), held),
}

SOLE = {"sparsepo_token"}  # one score to a token, which as drawn is above the floor everywhere, or nowhere


def mapo_mask(case: Case, row: int) -> list[Tensor]:
    """z-score, then min-max, as published, then the mean over a kind's sites, then over kinds."""
    length = case.lengths[row]
    if length == 1:  # the published formula divides nan by nan here; a lone token weighs 1
        return [torch.ones((), dtype=torch.float64)]
    kinds: dict[str, list[Tensor]] = {}
    for site, kind in enumerate(KINDS):
        a = case.activations[site, row, :length]
        z = (a - a.mean()) / a.std()
        kinds.setdefault(kind, []).append((z - z.min()) / (z.max() - z.min()))
    return list(mean([mean(sites) for sites in kinds.values()]))


def sparse_mask(case: Case, row: int, network: torch.nn.Module) -> list[Tensor]:
    """The published network, token by token and layer by layer."""
    weights = []
    for t in range(case.lengths[row]):
        total = torch.zeros((), dtype=torch.float64)
        for layer in range(case.states.shape[0]):
            h = case.states[layer, row, t]
            x = (h - h.mean()) / torch.sqrt(((h - h.mean()) ** 2).mean() + 1e-5)
            x = x * network.norm.weight + network.norm.bias
            a = torch.relu((network.weight[layer] * x).sum() + network.bias[layer])
            total = total + network.mixer[layer] * a
        weights.append(torch.relu(total))
    return weights


def token_mask(case: Case, row: int, network: torch.nn.Module) -> list[Tensor]:
    """A hidden layer and a relu over the tokens' own embeddings; a mean below the floor, 0.3, is raised to it."""
    scores = []
    for t in range(case.lengths[row]):
        h = case.embeddings[0, row, t]
        x = (h - h.mean()) / torch.sqrt(((h - h.mean()) ** 2).mean() + 1e-5)
        x = x * network.norm.weight + network.norm.bias
        z = [(v * x).sum() + d for v, d in zip(network.hidden.weight[0], network.hidden.bias[0], strict=True)]
        g = torch.stack([s * (1 + torch.erf(s / 2**0.5)) / 2 for s in z])
        scores.append(network.mixer[0] * ((network.weight[0] * g).sum() + network.bias[0]))
    weights = [torch.relu(s) for s in scores]
    if mean(weights) >= 0.3:
        return weights
    for highest in range(1, len(scores) + 1):
        above = sorted(scores, reverse=True)[:highest]
        level = (0.3 * len(scores) - sum(above)) / highest
        if sum(s + level > 0 for s in scores) == highest:
            return [torch.relu(s + level) for s in scores]
    raise AssertionError("some number of scores is above zero")


def by_hand(name: str, case: Case, objective: Objective) -> Tensor:
    """The published loss of each pair, [B]."""
    losses, responses = [], []
    for row in range(len(case.lengths)):
        m = ones(case, row)
        if name == "mapo":
            m = mapo_mask(case, row)
        if name == "sparsepo_token":
            m = token_mask(case, row, objective.weighting)
        elif name.startswith("sparsepo"):
            m = sparse_mask(case, row, objective.weighting)
        independent = name == "sparsepo-independent"
        d = sparse_mask(case, row, objective.divergence_weighting) if independent else m
        responses.append(respond(case, row, m, d))
    for pair in range(case.pairs):
        losses.append(PAPERS[name][1](responses[pair], responses[pair + case.pairs]))
    return torch.stack(losses)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", PAPERS)
def test_value_and_gradients_are_the_papers(name: str, seed: int) -> None:
    case, objective = random_case(seed), build(PAPERS[name][0])
    if name in SOLE:
        with torch.no_grad():
            objective.weighting.mixer.abs_()
            objective.weighting.bias.sub_(6)
        weights = objective(case.tokens()).weights[case.mask]
        assert (weights == 0).any()
        assert (weights > 0).any()
        means = masked_mean(objective(case.tokens()).weights, case.mask)
        assert (means < 0.3 + 1e-9).any()
        assert (means > 0.3 + 1e-9).any()
    assert_equal_with_gradients(case, objective, by_hand(name, case, objective))


EXPECTED = {
    "dpo": Expected({"beta": 0.1}, at_reference=LN2, swapped=1.0),
    "cdpo": Expected({"beta": 0.1, "label_smoothing": 0.1}, at_reference=LN2, swapped=1 - 2 * 0.1),
    "hinge": Expected({"beta": 0.1}, at_reference=1.0, swapped=None),
    "ipo": Expected({"beta": 0.1}, at_reference=1 / (4 * 0.1**2), swapped=4 / (2 * 0.1)),
    "simpo": Expected({"beta": 2.0, "gamma": 1.0}, at_reference=None, swapped=None),
    "dpop": Expected({"beta": 0.3, "lam": 50.0}, at_reference=LN2, swapped=None),
    "tdpo1": Expected({"beta": 0.1}, at_reference=LN2, swapped=1.0),
    "tdpo2": Expected({"beta": 0.1, "alpha": 0.5}, at_reference=LN2, swapped=1.0),
    "mapo": Expected(
        {"beta": 0.1, "sites": ("mlp", "attn", "resid", "logits"), "reduction": "zn_rescale"},
        at_reference=LN2,
        swapped=1.0,
    ),
    "sparsepo": Expected(
        {"beta": 0.1, "shared": True, "l1_reward": 0.001, "l1_divergence": 0.001}, at_reference=LN2, swapped=1.0
    ),
    "sparsepo_token": Expected({"beta": 0.1, "alpha": 10.0, "l1": 0.002, "floor": 0.3}, at_reference=LN2, swapped=1.0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_defaults_are_the_papers_settings(name: str) -> None:
    assert zoo.ZOO[name]() == zoo.ZOO[name](**EXPECTED[name].defaults)
