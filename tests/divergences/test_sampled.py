"""The sampled divergences: what they estimate, that they vanish where the models agree, and extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefopt import DivergenceTerm, Objective, ObjectiveConfig
from prefopt.component import SampledDivergence
from prefopt.divergences import ForwardKL, ReverseKL, SampledK1, SampledK2, SampledK3
from tests.batches import random_case
from tests.built_in import built_in, unlisted, without_formula

FORWARD = [SampledK1(), SampledK3()]
REVERSE = [SampledK1(direction="reverse"), SampledK3(direction="reverse")]
ALL = [*FORWARD, *REVERSE, SampledK2()]
UNLISTED = unlisted(SampledDivergence, ALL)
each_listed = pytest.mark.parametrize("divergence", ALL, ids=str)
each_estimator = pytest.mark.parametrize("divergence", [*ALL, *UNLISTED], ids=str)


def both(*shape: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    logps, ref_logps = torch.randn(2, *shape, generator=draw, dtype=torch.float64).log_softmax(-1)
    return logps, ref_logps


def test_every_built_in_estimator_is_tested_and_says_that_it_is_one() -> None:
    assert without_formula(SampledDivergence, ALL, lambda row: row.divergence and row.divergence.measure) == set()
    assert {type(divergence) for divergence in ALL} <= built_in(SampledDivergence)
    assert all(cls.model_fields["name"].default.startswith("sampled_") for cls in built_in(SampledDivergence))


@pytest.mark.parametrize("divergence", FORWARD, ids=str)
def test_the_mean_over_the_references_tokens_is_the_forward_kl(divergence: SampledDivergence) -> None:
    logps, ref_logps = both(5, 11)
    mean = (ref_logps.exp() * divergence(logps, ref_logps)).sum(-1)
    torch.testing.assert_close(mean, ForwardKL()(logps, ref_logps))


@pytest.mark.parametrize("divergence", REVERSE, ids=str)
def test_the_mean_over_the_policys_tokens_is_the_reverse_kl(divergence: SampledDivergence) -> None:
    logps, ref_logps = both(5, 11)
    mean = (logps.exp() * divergence(logps, ref_logps)).sum(-1)
    torch.testing.assert_close(mean, ReverseKL()(logps, ref_logps))


@each_listed
def test_by_hand(divergence: SampledDivergence) -> None:
    p, q = 0.2, 0.5
    x = math.log(q / p) if getattr(divergence, "direction", None) == "reverse" else math.log(p / q)
    expected = {"sampled_k1": -x, "sampled_k2": x * x / 2, "sampled_k3": math.exp(x) - 1 - x}[divergence.name]
    value = divergence(torch.tensor([p], dtype=torch.float64).log(), torch.tensor([q], dtype=torch.float64).log())
    assert value.tolist() == pytest.approx([expected], rel=1e-14)


@each_estimator
def test_zero_where_the_models_agree(divergence: SampledDivergence) -> None:
    logps, _ = both(40)
    assert divergence(logps, logps).abs().max() == 0


@each_estimator
def test_finite_at_log_ratios_of_a_thousand_and_never_negative_but_for_k1(divergence: SampledDivergence) -> None:
    logps = torch.tensor([-1000.0, -1e-4, -5.0, -5.0 + 1e-5], requires_grad=True)
    value = divergence(logps, torch.tensor([-1e-4, -1000.0, -5.0, -5.0]))
    (gradient,) = torch.autograd.grad(value.sum(), logps)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert (value >= 0).all() or isinstance(divergence, SampledK1)


@each_estimator
def test_an_objective_takes_it_as_any_divergence(divergence: SampledDivergence) -> None:
    case = random_case(4)
    config = ObjectiveConfig(divergence=DivergenceTerm(measure=divergence, alpha=0.5))
    assert ObjectiveConfig.model_validate_json(config.model_dump_json()) == config
    tokens = case.tokens()
    tokens = tokens.replace(divergence=divergence(tokens.logps, tokens.ref_logps))
    objective = Objective(config, num_layers=1, hidden_size=1)
    rewards = objective(tokens).rewards
    by_hand = torch.where(case.mask, tokens.logps - tokens.ref_logps + 0.5 * tokens.divergence, 0).sum(-1)
    torch.testing.assert_close(rewards, 0.1 * by_hand.detach())
