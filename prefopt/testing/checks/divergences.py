"""Checks of divergences."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from prefopt.component import BackwardBlock, Divergence, ExactDivergence, SampledDivergence, StreamedDivergence
from prefopt.testing.cases import SEEDS, Case, case_for
from prefopt.testing.check import check
from prefopt.testing.trial import call, gradient, require, require_finite, same


def _near(component: Divergence, step: float, seed: int = 0) -> Case:
    """A case whose policy is that far from the reference."""
    case = case_for(component, seed)
    moved = case.rows["ref_logits"] + step * case.rows["logits"]
    return case.but(f"policy {step:g} logits from the reference", logits=moved)


@check(Divergence)
def divergence_is_never_negative(component: Divergence) -> None:
    """No value is negative, not even by rounding in float32 where policy and reference are close.

    A divergence is a distance; a negative one is a reward for being near the reference. Clamp what is a difference of
    sums.
    """
    for seed in SEEDS:
        for step in (0.0, 1e-4, 1e-2, 1.0):
            for dtype in (torch.float64, torch.float32):
                case = _near(component, step, seed).to(dtype)
                value = call(component, case)
                require(not (value < 0).any(), f"a divergence of {float(value.min()):.3g}", case)


@check(Divergence)
def divergence_is_zero_where_equal_and_only_there(component: Divergence) -> None:
    """It is 0 where policy and reference agree, and not 0 where they differ.

    What is not 0 at the reference moves a policy that has nothing to learn; what is 0 elsewhere does not see it leave.
    """
    case = _near(component, 0.0)
    equal = call(component, case)
    require(equal.abs().max() < 1e-9, f"{float(equal.abs().max()):.3g} where policy and reference agree", case)
    case = _near(component, 0.1)
    differs = call(component, case)
    require((differs.abs() > 1e-9).all(), f"{float(differs.abs().min()):.3g} where they differ", case)


@check(Divergence)
def peaked_distributions_are_finite(component: Divergence) -> None:
    """With logits up to hundreds of nats apart, value and gradient are finite, in float32.

    Trained models are nearly certain of most tokens. The probability of the others is 0 in float32, and its logarithm
    is not: work with log-probabilities.
    """
    for seed in range(3):
        case = case_for(component, seed).to(torch.float32)
        logits = (80 * case.rows["logits"]).requires_grad_()
        peaked = case.but("80 times the logits", logits=logits, ref_logits=-80 * case.rows["ref_logits"])
        value = call(component, peaked)
        require_finite(value, "a value", peaked)
        require_finite(gradient(value, logits), "a gradient", peaked)


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
    logits = case.rows["logits"].clone().requires_grad_()
    d_logits = gradient(call(component, case.but("policy as trained", logits=logits)), logits)
    require(d_logits[case.mask].any(), "no gradient reaches the policy's logits", case)


@check(ExactDivergence)
def closed_form_gradient_agrees(component: ExactDivergence) -> None:
    """`logit_gradient` is the gradient of the value that autograd finds, to ten digits in float64.

    Scoring takes this closed form in place of autograd. If it is wrong, the loss that is shown is not the one that is
    trained, and nothing else says so.
    """
    for seed in SEEDS:
        case = case_for(component, seed)
        logits = case.rows["logits"].clone().requires_grad_()
        logps, ref_logps = case.but("", logits=logits).distributions()
        value = component(logps, ref_logps)
        closed = component.logit_gradient(logps.detach().clone(), ref_logps.clone(), value.detach())
        expected = gradient(value, logits)
        gap = _gap(closed, expected)
        require(same(closed, expected, tolerance=1e-10), f"closed form and autograd differ {gap}", case)


@check(StreamedDivergence)
def streaming_agrees_with_the_call(component: StreamedDivergence) -> None:
    """`block_forward`, `combine` and `block_backward` give the value of `__call__` and the gradient of
    `logit_gradient`, to nine digits in float64.

    Scoring computes a StreamedDivergence block by block; `__call__` is what its documentation states.
    """
    for seed in SEEDS:
        case = case_for(component, seed)
        logits, ref_logits = (case.rows[side].flatten(0, 1).T for side in ("logits", "ref_logits"))
        logps, ref_logps = logits.T.log_softmax(-1), ref_logits.T.log_softmax(-1)
        g_logps, g_value = logps[:, 0].sigmoid(), ref_logps[:, 0].sigmoid()
        value = component(logps, ref_logps)
        d_logits = g_value[:, None] * component.logit_gradient(logps, ref_logps, value) - g_logps[:, None] * logps.exp()
        blockwise, gradients = _in_two_blocks(component, logits, ref_logits, g_logps, g_value)
        require(same(blockwise, value, tolerance=1e-9), f"values differ {_gap(blockwise, value)}", case)
        require(same(gradients.T, d_logits, tolerance=1e-9), f"gradients differ {_gap(gradients.T, d_logits)}", case)


def _in_two_blocks(
    component: StreamedDivergence, logits: Tensor, ref_logits: Tensor, g_logps: Tensor, g_value: Tensor
) -> tuple[Tensor, Tensor]:
    """The value [C] and the gradient of the logits [V, C], from two blocks of unequal size."""
    sums, scales, blocks = [], [], []
    normaliser, ref_normaliser = logits.logsumexp(0), ref_logits.logsumexp(0)
    for z, r in zip(logits.tensor_split([2]), ref_logits.tensor_split([2]), strict=True):
        block_max, ref_block_max = z.amax(0), r.amax(0)
        exps, ref_exps = (z - block_max).exp(), (r - ref_block_max).exp()
        sums.append(component.block_forward(exps, ref_exps, z - r))
        scales.append(((block_max - normaliser).exp(), (ref_block_max - ref_normaliser).exp()))
        blocks.append((exps, ref_exps))
    scale, ref_scale = (torch.stack(column) for column in zip(*scales, strict=True))
    log_ratio = normaliser - ref_normaliser
    value = component.combine(torch.stack(sums), scale, ref_scale, log_ratio)
    gradients = [
        component.block_backward(BackwardBlock(*block, *scale, log_ratio, value, g_logps, g_value))
        for block, scale in zip(blocks, scales, strict=True)
    ]
    return value, torch.cat(gradients)


def _gap(actual: Tensor, expected: Tensor) -> str:
    return f"by {float((actual - expected).abs().max()):.3g}" if actual.shape == expected.shape else "in shape"


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
