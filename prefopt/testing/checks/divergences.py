"""Checks of divergences."""

from __future__ import annotations

from itertools import product
from math import inf

import torch
from torch import Tensor

from prefopt.component import BackwardBlock, Divergence, ExactDivergence, SampledDivergence, StreamedDivergence
from prefopt.testing.cases import Case, case_for, cases
from prefopt.testing.check import check
from prefopt.testing.trial import call, gradient, require, require_finite_with_gradient, require_same, same


def _near(case: Case, step: float) -> Case:
    """The case with a policy that far from the reference."""
    moved = case.rows["ref_logits"] + step * case.rows["logits"]
    return case.but(f"policy {step:g} logits from the reference", logits=moved)


@check(Divergence)
def divergence_is_never_negative(component: Divergence) -> None:
    """No value is negative, not even by rounding in float32 where policy and reference are close.

    A divergence is a distance; a negative one is a reward for being near the reference. Clamp what is a difference of
    sums.
    """
    for case, step, dtype in product(cases(component), (0.0, 1e-4, 1e-2, 1.0), (torch.float64, torch.float32)):
        near = _near(case, step).to(dtype)
        value = call(component, near)
        require(not (value < 0).any(), f"a divergence of {float(value.min()):.3g}", near)


@check(Divergence)
def divergence_is_zero_where_equal_and_only_there(component: Divergence) -> None:
    """It is 0 where policy and reference agree, and not 0 where they differ.

    What is not 0 at the reference moves a policy that has nothing to learn; what is 0 elsewhere does not see it leave.
    """
    case = _near(case_for(component), 0.0)
    equal = call(component, case)
    require(equal.abs().max() < 1e-9, f"{float(equal.abs().max()):.3g} where policy and reference agree", case)
    case = _near(case_for(component), 0.1)
    differs = call(component, case)
    require((differs.abs() > 1e-9).all(), f"{float(differs.abs().min()):.3g} where they differ", case)


@check(Divergence)
def peaked_distributions_are_finite(component: Divergence) -> None:
    """With logits up to hundreds of nats apart, value and gradient are finite, in float32.

    Trained models are nearly certain of most tokens. The probability of the others is 0 in float32, and its logarithm
    is not: work with log-probabilities.
    """
    for case in (case.to(torch.float32) for case in cases(component, 3)):
        rows = {"logits": 80 * case.rows["logits"], "ref_logits": -80 * case.rows["ref_logits"]}
        peaked, logits = case.but("80 times the logits", **rows).with_gradient()
        require_finite_with_gradient(call(component, peaked), logits, "a value", peaked)


@check(Divergence)
def impossible_tokens_give_no_nan(component: Divergence) -> None:
    """Logits of minus infinity, in the policy, the reference or both, give no NaN. Infinity is allowed.

    Banned tokens and padded vocabularies have them. 0 times infinity is NaN: a probability of zero has to silence
    what it weighs. An estimate from one token is tried where one of the two excludes it, not both.
    """
    case = case_for(component)
    ids = case.rows["token_ids"][..., None]
    other = (ids + 1) % case.rows["logits"].shape[-1]
    for sides in (("logits",), ("ref_logits",), ("logits", "ref_logits")):
        sampled = isinstance(component, SampledDivergence)
        banned = ids if sampled else other
        if sampled and len(sides) > 1:
            continue
        rows = {side: case.rows[side].scatter(-1, banned, -inf) for side in sides}
        masked = case.but(f"a token at -inf in {' and '.join(sides)}", **rows)
        require(not call(component, masked).isnan().any(), "a value of NaN", masked)


@check(Divergence)
def gradient_reaches_the_policy(component: Divergence) -> None:
    """Where policy and reference differ, a gradient reaches the policy.

    Without one the divergence is a constant: it is computed at every token, and trains nothing.
    """
    case = case_for(component)
    trained, logits = case.with_gradient()
    d_logits = gradient(call(component, trained), logits)
    require(d_logits[case.mask].any(), "no gradient reaches the policy's logits", case)


@check(ExactDivergence)
def closed_form_gradient_agrees(component: ExactDivergence) -> None:
    """`logit_gradient` is the gradient of the value that autograd finds, to ten digits in float64.

    Scoring takes this closed form in place of autograd. If it is wrong, the loss that is shown is not the one that is
    trained, and nothing else says so.
    """
    for case in cases(component):
        trained, logits = case.with_gradient()
        logps, ref_logps = trained.distributions()
        value = component(logps, ref_logps)
        closed = component.logit_gradient(logps.detach().clone(), ref_logps.clone(), value.detach())
        require_same(
            closed, gradient(value, logits), "from autograd to the closed form a gradient", case, tolerance=1e-10
        )


@check(StreamedDivergence)
def streaming_agrees_with_the_call(component: StreamedDivergence) -> None:
    """`block_forward`, `combine` and `block_backward` give the value of `__call__` and the gradient of
    `logit_gradient`, to nine digits in float64.

    Scoring computes a StreamedDivergence block by block; `__call__` is what its documentation states.
    """
    for case in cases(component):
        logits, ref_logits = (case.rows[side].flatten(0, 1).T for side in ("logits", "ref_logits"))
        logps, ref_logps = logits.T.log_softmax(-1), ref_logits.T.log_softmax(-1)
        g_logps, g_value = logps[:, 0].sigmoid(), ref_logps[:, 0].sigmoid()
        value = component(logps, ref_logps)
        d_logits = g_value[:, None] * component.logit_gradient(logps, ref_logps, value) - g_logps[:, None] * logps.exp()
        blockwise, gradients = _in_two_blocks(component, logits, ref_logits, g_logps, g_value)
        require_same(blockwise, value, "block by block a value", case)
        require_same(gradients.T, d_logits, "block by block a gradient", case)


def _in_two_blocks(
    component: StreamedDivergence, logits: Tensor, ref_logits: Tensor, g_logps: Tensor, g_value: Tensor
) -> tuple[Tensor, Tensor]:
    """The value [C] and the gradient of the logits [V, C], from two blocks of unequal size."""
    sums, scales, blocks = [], [], []
    normaliser, ref_normaliser = logits.logsumexp(0), ref_logits.logsumexp(0)
    for z, r in zip(logits.tensor_split([2]), ref_logits.tensor_split([2]), strict=True):
        shift, ref_shift = z.amax(0) + 0.5, r.amax(0) - 0.5  # they need not be the maxima
        exps, ref_exps = (z - shift).exp(), (r - ref_shift).exp()
        sums.append(component.block_forward(exps, ref_exps, z - r))
        scales.append(((shift - normaliser).exp(), (ref_shift - ref_normaliser).exp()))
        blocks.append((exps, ref_exps))
    scale, ref_scale = (torch.stack(column) for column in zip(*scales, strict=True))
    log_ratio = normaliser - ref_normaliser
    value = component.combine(torch.stack(sums), scale, ref_scale, log_ratio)
    gradients = [
        component.block_backward(BackwardBlock(*block, *scale, log_ratio, value, g_logps, g_value))
        for block, scale in zip(blocks, scales, strict=True)
    ]
    return value, torch.cat(gradients)


@check(Divergence)
def cutting_into_positions_changes_nothing(component: Divergence) -> None:
    """The value at a position is the same whether it is computed alone, in a chunk or with all others.

    Scoring walks over chunks of positions, as many as fit into memory. A value that depends on its chunk depends on
    the machine.
    """
    case = case_for(component)
    models = case.distributions(sampled=isinstance(component, SampledDivergence))
    value = component(*models)
    for size in (1, 5):
        chunks = zip(*(torch.split(logps.flatten(0, 1), size) for logps in models), strict=True)
        values = torch.cat([component(*chunk) for chunk in chunks])
        require(same(values, value.flatten()), f"other values in chunks of {size}", case)
