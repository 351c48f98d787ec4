"""A token that a model excludes, of log-probability -inf, has no say where its weight is 0: neither in a loss nor in a
gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prefopt import Objective, TokenBatch, zoo
from prefopt.divergences import ForwardKL, ReverseKL, SampledK1, SampledK2, SampledK3
from tests.batches import random_case

ROW, STEP = 3, 1
"""Where the token is: in the first rejected response."""
SHARE = {"measure": "forward_kl", "alpha": 1.0}
SILENT: dict[str, dict[str, Any]] = {
    "dpo": {"zoo": "dpo", "weighting": "column"},
    "ipo": {"zoo": "ipo", "weighting": "column"},
    "reference_free": {"zoo": "cpo", "nll_weight": 0, "weighting": "column"},
    "units": {"zoo": "tbpo_a", "weighting": "column"},
    "both terms": {"zoo": "tdpo1", "weighting": "column"},
    "no chosen gradient": {"zoo": "tdpo2", "weighting": "column"},
    "two weightings": {"zoo": "dpo", "weighting": "column", "divergence": SHARE | {"weighting": "column"}},
    "alpha 0": {"zoo": "dpo", "weighting": "column", "divergence": SHARE | {"alpha": 0.0, "weighting": "uniform"}},
    "token rewards": {"zoo": "t_reg", "weighting": "column"},
    "token rewards by 0": {"zoo": "t_reg", "alpha": 0, "weighting": "column"},
    "a mean of token rewards": {"zoo": "t_reg", "weighting": "column", "loss": {"reduction": "mean"}},
}
STOPPED = ("no chosen gradient", "token rewards", "a mean of token rewards")
"""Of these a part passes no gradient, by definition."""


def at_token(values: Tensor, value: float) -> Tensor:
    there = torch.zeros_like(values, dtype=torch.bool)
    there[ROW, STEP] = True
    return torch.where(there, value, values)


def batch(spec: str, logps: Tensor, excluded_by: str, divergence: Tensor) -> TokenBatch:
    """The token excluded by "policy", "reference" or "both", weighed by 0; its token reward 0 but for alpha 0."""
    tokens = random_case().tokens()
    rewards = tokens.columns["token_rewards"]
    columns = {"weights": at_token(tokens.columns["weights"], 0.0)}
    columns["token_rewards"] = rewards if spec.endswith("by 0") else at_token(rewards, 0.0)
    return TokenBatch(
        **{name: getattr(tokens, name) for name in ("mask", "token_ids", "last_states")},
        logps=logps if excluded_by == "reference" else at_token(logps, -torch.inf),
        ref_logps=tokens.ref_logps if excluded_by == "policy" else at_token(tokens.ref_logps, -torch.inf),
        divergence=at_token(divergence, torch.nan if excluded_by == "both" else torch.inf),
        columns=dict(tokens.columns) | columns,
    )


@pytest.mark.parametrize("excluded_by", ["policy", "reference", "both"])
@pytest.mark.parametrize("name", SILENT)
def test_a_weight_of_zero_silences_an_excluded_token(name: str, excluded_by: str) -> None:
    objective = Objective(zoo.build(SILENT[name]), num_layers=3, hidden_size=5).double()
    tokens = random_case().tokens()
    leaves = [torch.where(tokens.mask, values.detach(), 0) for values in (tokens.logps, tokens.divergence)]

    def losses(logps: Tensor, divergence: Tensor) -> Tensor:
        return objective(batch(name, logps, excluded_by, divergence)).losses

    for leaf in leaves:
        leaf.requires_grad_()
    whole = batch(name, leaves[0], excluded_by, leaves[1])
    finite = whole.replace(logps=leaves[0], ref_logps=tokens.ref_logps, divergence=leaves[1])
    actual, expected = objective(whole), objective(finite)
    assert torch.equal(actual.losses, expected.losses)
    assert torch.equal(actual.rewards, expected.rewards)
    slopes = (torch.autograd.grad(output.loss, leaves, materialize_grads=True) for output in (actual, expected))
    for one, two in zip(*slopes, strict=True):
        assert torch.equal(one, two)
    if name not in STOPPED:
        assert torch.autograd.gradcheck(losses, leaves)


@pytest.mark.parametrize("name", ["dpo", "token rewards", "both terms"])
def test_a_weight_above_zero_does_not(name: str) -> None:
    tokens = random_case().tokens()
    whole = batch(name, tokens.logps.detach(), "policy", tokens.divergence.detach())
    counted = whole.replace(columns=whole.columns | {"weights": at_token(whole.columns["weights"], 0.5)})
    objective = Objective(zoo.build(SILENT[name]), num_layers=3, hidden_size=5).double()
    assert not objective(counted).rewards[ROW].isfinite()
    broken = whole.replace(logps=at_token(whole.logps, torch.nan))
    assert objective(broken).rewards[ROW].isnan()


class Learned(torch.nn.Module):
    """Weights of one, but for 0 at the token, where a gradient passes straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.free = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, tokens: TokenBatch) -> Tensor:
        hard = at_token(tokens.mask.double(), 0.0)
        return torch.where(tokens.mask, hard + self.free - self.free.detach(), 0)


def test_a_weight_of_zero_keeps_its_gradient_where_the_token_is_not_excluded() -> None:
    objective = Objective(zoo.dpo(), num_layers=3, hidden_size=5)
    objective.weighting = Learned()
    tokens = random_case().tokens()
    log_ratios = torch.where(tokens.mask, tokens.logps - tokens.ref_logps, 0).detach()
    (slope,) = torch.autograd.grad(objective(tokens).losses[ROW - 3], objective.weighting.free)
    sums = (log_ratios.sum(1), at_token(log_ratios, 0.0).sum(1))
    margin, all_of_it = (0.1 * (values[0] - values[ROW]) for values in (sums[1], sums[0]))
    torch.testing.assert_close(slope, -torch.sigmoid(-margin) * all_of_it)


def test_a_finite_divergence_passes_its_gradient_to_a_weight_of_zero_where_the_token_is_excluded() -> None:
    config = zoo.build({"zoo": "dpo", "divergence": SHARE | {"weighting": "uniform"}})
    objective = Objective(config, num_layers=3, hidden_size=5)
    objective.weighting = objective.divergence_weighting = Learned()
    tokens = random_case().tokens()
    tokens = tokens.replace(logps=at_token(tokens.logps.detach(), -torch.inf))
    slopes = []
    for divergence in (0.5, 2.5):
        output = objective(tokens.replace(divergence=at_token(tokens.divergence.detach(), divergence)))
        slopes += torch.autograd.grad(output.losses[ROW - 3], objective.weighting.free)
    margin = output.rewards[ROW - 3] - output.rewards[ROW]
    torch.testing.assert_close(slopes[1] - slopes[0], 2 * config.beta * torch.sigmoid(-margin))


@pytest.mark.parametrize(
    "divergence", [SampledK1(), SampledK2(), SampledK3(), SampledK3(direction="reverse")], ids=lambda d: d.name
)
@pytest.mark.parametrize("given", [(-torch.inf, -1.0), (-1.0, -torch.inf), (-torch.inf, -torch.inf)])
def test_sampled_divergences_pass_no_nan_under_a_weight_of_zero(divergence: Any, given: tuple[float, float]) -> None:
    logps = torch.tensor([given[0], -1.5], dtype=torch.float64, requires_grad=True)
    values = divergence(logps, torch.tensor([given[1], -1.2], dtype=torch.float64))
    assert not values[0].isfinite() or values[0] > 1e300
    (torch.tensor([0.0, 1.0]) * torch.where(values.isfinite(), values, 0)).sum().backward()
    assert logps.grad is not None
    assert logps.grad[0] == 0
    assert logps.grad[1].abs() > 0.01


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL()], ids=lambda d: d.name)
def test_an_infinite_divergence_passes_no_nan_under_a_weight_of_zero_by_autograd(divergence: Any) -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [0.3, 0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    ref_logits = torch.tensor([[-torch.inf, 0.0, 1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
    values = divergence(logits.log_softmax(-1), ref_logits.log_softmax(-1))
    assert values[0].isinf()
    (torch.tensor([0.0, 1.0]) * torch.where(values.isinf(), 0, values)).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].eq(0).all()
    assert logits.grad[1].abs().max() > 0.01
    assert torch.autograd.gradcheck(lambda z: divergence(z.log_softmax(-1), ref_logits[1:].log_softmax(-1)), logits[1:])
