"""The identities that hold exactly between the papers' objectives, masks and divergences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefopt import DivergenceTerm, Objective, ObjectiveConfig, zoo
from prefopt.divergences import ForwardKL
from prefopt.regularizers import MaskL1
from prefopt.weightings import SparseMask, SparseWeighting, UniformWeighting
from tests.batches import Case, random_case, without_noise

EXACT = {"rtol": 1e-11, "atol": 1e-12}
NEAR_ONE = SparseWeighting(init="near_one")


def build(config: ObjectiveConfig) -> Objective:
    """In float64; published masks get random parameters with live units."""
    objective = without_noise(Objective(config, num_layers=3, hidden_size=5).double())
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weighting in (objective.weighting, objective.divergence_weighting):
            if isinstance(weighting, SparseMask) and float(weighting.mixer.sum()) != 1:
                for parameter in weighting.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=draw).abs() + 0.1)
    return objective


def value_and_gradient(config: ObjectiveConfig, case: Case) -> tuple[Tensor, Tensor]:
    losses = build(config)(case.tokens()).losses
    (gradient,) = torch.autograd.grad(losses.mean(), case.logits)
    assert gradient.abs().max() > 1e-6
    return losses, gradient


def weighted(beta: float, w: object, v: object = None, alpha: float = 1.0) -> ObjectiveConfig:
    term = DivergenceTerm(measure=ForwardKL(), alpha=alpha, weighting=v)
    return ObjectiveConfig(beta=beta, weighting=w, divergence=term)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (weighted(0.4, UniformWeighting()), zoo.tdpo1(0.4)),
        (weighted(0.4, UniformWeighting(), UniformWeighting()), zoo.tdpo1(0.4)),
        (weighted(0.4, NEAR_ONE), zoo.tdpo1(0.4)),
        (weighted(0.4, NEAR_ONE, NEAR_ONE), zoo.tdpo1(0.4)),
        (weighted(0.4, UniformWeighting(), UniformWeighting(value=0)), zoo.dpo(0.4)),
        (weighted(0.4, NEAR_ONE, UniformWeighting(value=0)), zoo.dpo(0.4)),
        (weighted(0.4, UniformWeighting(value=0.25)), zoo.tdpo1(0.1)),
        (weighted(0.4, UniformWeighting(value=0.25), UniformWeighting(value=0.25)), zoo.tdpo1(0.1)),
        (zoo.tdpo2(0.4, alpha=0), zoo.dpo(0.4)),
    ],
)
def test_equal_objectives_have_equal_values_and_gradients(one: ObjectiveConfig, other: ObjectiveConfig) -> None:
    case = random_case(11)
    (value, gradient), (other_value, other_gradient) = (value_and_gradient(config, case) for config in (one, other))
    torch.testing.assert_close(value, other_value, **EXACT)
    torch.testing.assert_close(gradient, other_gradient, **EXACT)


def test_tdpo2_at_alpha_1_has_the_value_of_tdpo1_and_another_gradient() -> None:
    case = random_case(12)
    value, gradient = value_and_gradient(zoo.tdpo2(0.4, alpha=1), case)
    other_value, other_gradient = value_and_gradient(zoo.tdpo1(0.4), case)
    torch.testing.assert_close(value, other_value, **EXACT)
    assert (gradient - other_gradient).abs().max() > 1e-3


@pytest.mark.parametrize("shared", [True, False])
def test_where_the_policy_is_the_reference(shared: bool) -> None:
    """Loss ln 2; no gradient to the masks; to the policy that of DPO weighted by the reward's mask."""
    case = random_case(13)
    case = case.but(logits=case.ref_logits)
    objective = build(zoo.sparsepo(0.8, shared=shared, l1_reward=0, l1_divergence=0))
    output = objective(case.tokens())
    torch.testing.assert_close(output.losses, torch.full((3,), math.log(2), dtype=torch.float64), **EXACT)
    gradient, *mask_gradients = torch.autograd.grad(output.loss, [case.logits, *objective.parameters()])
    assert gradient.abs().max() > 1e-3
    assert all((mask_gradient.abs() < 1e-14).all() for mask_gradient in mask_gradients)

    r = (case.logits.log_softmax(-1) - case.ref_logits.log_softmax(-1)).gather(-1, case.token_ids[..., None])[..., 0]
    sums = torch.where(case.mask, output.weights * r, 0).sum(-1)
    weighted_dpo = -torch.nn.functional.logsigmoid(0.8 * (sums[:3] - sums[3:])).mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(weighted_dpo, case.logits)[0], **EXACT)


# DPOP treats the chosen response otherwise, and 2D-DPO sets its best units against the worst of the rejected one.
@pytest.mark.parametrize("name", sorted(set(zoo.ZOO) - {"dpop", "dpo_2d"}))
def test_swapping_the_responses_negates_the_margin(name: str) -> None:
    # ConfPO gives no reward to a pair with a response of one token.
    case, objective = random_case(14, lengths=(4, 2, 6, 2, 5, 3)), build(zoo.ZOO[name]())
    swapped = case.of_rows([3, 4, 5, 0, 1, 2])
    chosen, rejected = objective(case.tokens()).rewards.chunk(2)
    other_chosen, other_rejected = objective(swapped.tokens()).rewards.chunk(2)
    assert (chosen - rejected).abs().min() > 1e-6
    torch.testing.assert_close(other_chosen - other_rejected, rejected - chosen, **EXACT)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_logits_on_padding_change_nothing(name: str) -> None:
    case = random_case(15).but(dirty=False)
    config, keep = zoo.ZOO[name](), case.mask[..., None]
    other = case.but(
        logits=torch.where(keep, case.logits, case.logits.flip(-1) + 3),
        ref_logits=torch.where(keep, case.ref_logits, -case.ref_logits),
        token_ids=torch.where(case.mask, case.token_ids, (case.token_ids + 1) % 7),
        states=torch.where(keep, case.states, 5 - case.states),
        activations=torch.where(case.mask, case.activations, 9 * case.activations),
    )
    (value, gradient), (other_value, other_gradient) = (value_and_gradient(config, batch) for batch in (case, other))
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)


def test_the_papers_masks_cannot_see_the_token_that_they_weigh() -> None:
    case = random_case(16)
    other = case.but(token_ids=(case.token_ids + 1) % 7, token_states=-2 * case.token_states + 1)
    for config in (zoo.mapo(), zoo.sparsepo(), zoo.sparsepo(shared=False)):
        one, two = (build(config)(batch.tokens()) for batch in (case, other))
        assert torch.equal(one.weights, two.weights)
        assert torch.equal(one.divergence_weights, two.divergence_weights)
        assert not torch.equal(one.rewards, two.rewards)
    seeing = ObjectiveConfig(weighting=SparseWeighting(position="token"))
    assert not torch.equal(build(seeing)(case.tokens()).weights, build(seeing)(other.tokens()).weights)


def test_standardising_before_min_max_changes_nothing() -> None:
    case, weighting = random_case(17), zoo.mapo().weighting
    plain = weighting(case.tokens())
    standard = case.but(activations=case.activations.clone())
    for row, length in enumerate(case.lengths):
        if length > 1:
            values = case.activations[:, row, :length]
            standardised = (values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True)
            standard.activations[:, row, :length] = standardised
    assert not torch.equal(standard.activations, case.activations)
    torch.testing.assert_close(weighting(standard.tokens()), plain, **EXACT)


def test_the_kl_is_the_mean_of_the_log_ratio_under_the_reference_with_its_sign_turned() -> None:
    case = random_case(18)
    z, ref = case.logits.detach(), case.ref_logits
    p, q = z.log_softmax(-1), ref.log_softmax(-1)
    k = ForwardKL()(p, q)
    assert (k > 0).all()
    torch.testing.assert_close((q.exp() * (p - q + k[..., None])).sum(-1), torch.zeros_like(k), **EXACT)
    without_buffer = (ref.softmax(-1) * (ref - z)).sum(-1) - ref.logsumexp(-1) + z.logsumexp(-1)
    torch.testing.assert_close(k, without_buffer, **EXACT)


def test_peaked_logits_are_nan_by_softmax_log_and_finite_by_ours() -> None:
    z, ref = torch.tensor([0.0, 300.0, 5.0]), torch.tensor([0.0, 280.0, -5.0])
    p, q = z.softmax(-1), ref.softmax(-1)
    assert (q * (q.log() - p.log())).sum().isnan()
    ours = ForwardKL()(z.log_softmax(-1), ref.log_softmax(-1))
    assert ours.isfinite()
    assert ours >= 0


def test_a_common_mask_is_charged_once() -> None:
    """Half of each rate, so that at equal rates a common mask is penalised as one of two independent masks is."""
    case = random_case(19)
    tokens, length = case.tokens(), torch.tensor([6.0, 6.0, 9.0], dtype=torch.float64)  # of both responses, by pair
    for shared, rate in ((True, (0.2 + 0.6) / 2), (False, 0.2 + 0.6)):
        config = zoo.sparsepo(shared=shared, l1_reward=0.2, l1_divergence=0.6)
        term = config.divergence.model_copy(update={"weighting": None if shared else NEAR_ONE})
        at_one = config.model_copy(update={"weighting": NEAR_ONE, "divergence": term})
        free = at_one.model_copy(update={"regularizers": ()})
        penalty = build(at_one)(tokens).losses - build(free)(tokens).losses
        torch.testing.assert_close(penalty, rate * length, **EXACT)
    assert zoo.sparsepo(l1_reward=0.3, l1_divergence=0.3).regularizers == (MaskL1(reward=0.15, divergence=0.15),)
