"""Checks of token weightings."""

from __future__ import annotations

import torch

from prefopt.component import TokenWeighting, weights_and_penalty
from prefopt.signals import SIGNALS
from prefopt.testing.cases import case_for, cases
from prefopt.testing.check import check
from prefopt.testing.trial import build, call, gradient, require, require_finite, same, wherever_it_learns


@check(TokenWeighting)
@wherever_it_learns
def weights_are_not_negative(component: TokenWeighting) -> str:
    """No weight is negative. The remark gives the mean weight at the start.

    A negative weight turns the preference of a token round. The mean weight scales every reward, as beta does, so a
    comparison with unweighted training needs it.
    """
    means = []
    for case in cases(component):
        weights = call(component, case).detach()
        require((weights >= 0).logical_or(weights.isnan()).all(), f"a weight of {float(weights.min()):.3g}", case)
        means.append(float(weights[case.mask].double().mean()))
    return f"mean weight at the start: {sum(means) / len(means):.3g}"


@check(TokenWeighting)
def weights_are_zero_off_the_response(component: TokenWeighting) -> None:
    """Every weight where the mask is false is exactly 0.

    Regularisers and metrics sum weights, and a mean of weights that counts padding depends on how the batch was
    padded.
    """
    case = case_for(component)
    off = call(component, case)[~case.mask]
    require(not off.any(), "a weight on padding that is not 0", case)


@check(TokenWeighting)
def constant_signals_give_finite_weights(component: TokenWeighting) -> None:
    """Where all tokens look alike, to policy and reference, the weights are finite.

    That is how a toy model, an untrained one or a repeated token looks. Anything divided by a spread is 0 / 0 there.
    """
    case = case_for(component, constant=True)
    require_finite(call(component, case), "a weight", case)


@check(TokenWeighting)
@wherever_it_learns
def no_gradient_reaches_the_policy(component: TokenWeighting) -> None:
    """The weights pass no gradient to the policy.

    Otherwise the policy can lower the loss by moving weights in place of preferences. Detach what is read of it.
    """
    case = case_for(component)
    trained, logits = case.with_gradient()
    d_logits = gradient(call(component, trained), logits)
    require(not d_logits.any(), f"a gradient of {float(d_logits.abs().max()):.3g} reaches the policy's logits", case)


def reads_states(component: TokenWeighting) -> bool:
    """Whether it reads hidden states of the reference."""
    return any(SIGNALS[signal].layers is not None for signal in component.requires)


@check(TokenWeighting, applies=reads_states)
def states_may_be_in_half_precision(component: TokenWeighting) -> None:
    """States in bfloat16, all else in float32, give weights that are finite and near those of float32 states.

    States come as the model computes them, and models run in bfloat16. Cast them to the parameters' precision.
    """
    case = case_for(component).to(torch.float32)
    half = case.with_states_in(torch.bfloat16)
    require(
        same(call(component, half), call(component, case), tolerance=0.05), "weights far from those of float32", half
    )


def _has_penalty(component: TokenWeighting) -> bool:
    try:
        return hasattr(build(component), "weights_and_penalty")
    except Exception:  # every check that calls it will say so
        return False


@check(TokenWeighting, applies=_has_penalty)
def penalties_are_of_response_tokens(component: TokenWeighting) -> None:
    """`weights_and_penalty` gives the weights of the call and a penalty that is finite, and exactly 0 off the
    response.

    An objective takes both from `weights_and_penalty`, and adds the penalties of a pair to its loss.
    """
    for case in cases(component):
        function = build(component)
        weights, penalty = weights_and_penalty(function, case.tokens())
        require(same(weights, call(component, case, function)), "its weights are not those of the call", case)
        if penalty is not None:
            require(penalty.shape == case.mask.shape, f"its penalty has shape {tuple(penalty.shape)}", case)
            require_finite(penalty, "a penalty", case)
            require(not penalty[~case.mask].any(), "a penalty on padding that is not 0", case)
