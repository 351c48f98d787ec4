"""Single responses written out token by token, from which the tests of the papers' formulas are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefopt import Objective, ObjectiveConfig
from tests.batches import Case, without_noise

LN2 = math.log(2)
EXACT = {"rtol": 1e-11, "atol": 1e-12}


@dataclass
class Response:
    """One response by hand, a list entry per token: log-probability, log-ratio, KL(reference || policy), masks, the
    policy's chance of two like draws, both distributions [V], token ids, and weights and token rewards of the data; and
    the response's score.
    """

    logp: list[Tensor]
    r: list[Tensor]
    k: list[Tensor]
    m: list[Tensor]
    d: list[Tensor]
    collision: list[Tensor]
    score: Tensor
    pi: list[Tensor]
    ref: list[Tensor]
    ids: list[int]
    weights: list[Tensor]
    token_rewards: list[Tensor]


@dataclass(frozen=True)
class Expected:
    """What is published of a row at its default settings, or follows from its formula.

    defaults      the default settings, all of them
    at_reference  the loss where the policy is the reference, without regularisers; None: without a reference, or where
                  it depends on the pair
    swapped       the k of loss(c, j) - loss(j, c) = -k z, with z the margin of the rewards that are reported; None: the
                  difference is no multiple of the margin, as where the loss has a bend, a target margin, a weight or
                  a likelihood term for the chosen response
    """

    defaults: dict[str, Any]
    at_reference: float | None
    swapped: float | None


def log_sigmoid(z: Tensor) -> Tensor:
    return -torch.log(1 + torch.exp(-z))


def mean(values: list[Tensor]) -> Tensor:
    return sum(values[1:], start=values[0]) / len(values)


def ones(case: Case, row: int) -> list[Tensor]:
    """The mask of a method that has none."""
    return [torch.ones((), dtype=torch.float64)] * case.lengths[row]


def respond(case: Case, row: int, m: list[Tensor], d: list[Tensor]) -> Response:
    logp, r, k, collision, pi, ref = [], [], [], [], [], []
    for t in range(case.lengths[row]):
        p, q = torch.log_softmax(case.logits[row, t], 0), torch.log_softmax(case.ref_logits[row, t], 0)
        y = case.token_ids[row, t]
        pi.append(p.exp())
        ref.append(q.exp())
        logp.append(p[y])
        r.append(p[y] - q[y])
        k.append(sum(q[v].exp() * (q[v] - p[v]) for v in range(len(q))))
        collision.append(sum(p[v].exp() ** 2 for v in range(len(p))))
    columns = case.tokens().columns
    score = torch.cat([columns["score_chosen"], columns["score_rejected"]])[row]
    length = case.lengths[row]
    ids = case.token_ids[row, :length].tolist()
    weights, token_rewards = (list(columns[name][row, :length]) for name in ("weights", "token_rewards"))
    return Response(logp, r, k, m, d, collision, score, pi, ref, ids, weights, token_rewards)


def build(config: ObjectiveConfig, seed: int = 5) -> Objective:
    """The objective in float64, with every learned parameter random and the mask's units mostly alive."""
    objective = without_noise(Objective(config, num_layers=3, hidden_size=5).double())
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw).abs() + 0.1)
            parameter[..., -1] *= -1
    return objective


def assert_equal_with_gradients(case: Case, objective: Objective, by_hand: Tensor) -> None:
    """The objective's losses, and the gradients of their mean in every leaf, are those of the losses by hand [B]."""
    term = objective.config.divergence
    output = objective(case.tokens(None if term is None else term.measure))
    leaves = [case.logits, *objective.parameters()]
    ours = torch.autograd.grad(output.loss, leaves)
    theirs = torch.autograd.grad(by_hand.mean(), leaves)
    torch.testing.assert_close(output.losses, by_hand, **EXACT)
    for our, their in zip(ours, theirs, strict=True):
        assert their.abs().max() > 1e-9, "a gradient of zero compares nothing"
        torch.testing.assert_close(our, their, **EXACT)


PairFormula = Callable[[Case, int, int], Tensor]
"""From a case and the rows of a chosen and a rejected response to the loss of that pair."""


def unweighted(case: Case, row: int) -> Response:
    """The response of a row, with masks of ones."""
    return respond(case, row, ones(case, row), ones(case, row))
