"""Checks of reward shapings."""

from __future__ import annotations

import torch

from prefopt.component import RewardShaping
from prefopt.testing.cases import case_for
from prefopt.testing.check import check
from prefopt.testing.trial import arguments, call, gradient, require, require_finite, same


@check(RewardShaping)
def sides_are_told_by_is_chosen(component: RewardShaping) -> None:
    """With rows in another order, and `is_chosen` with them, the rewards come in that order.

    What tells a chosen response is `is_chosen`. A shaping that goes by the place of a row is wrong as soon as a batch
    is laid out otherwise.
    """
    case = case_for(component)
    given = arguments(component, case)
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    mixed = component(*(tensor[order] for tensor in given))
    require(same(mixed, component(*given)[order]), "another reward where the rows stand in another order", case)


@check(RewardShaping)
def extreme_token_rewards_are_finite(component: RewardShaping) -> None:
    """Token rewards of up to 1000 nats give finite values and gradients, in float32.

    A policy far from its reference, or one impossible token, makes such rewards. The exponential of 89 overflows.
    """
    for scale in (300.0, 1000.0):
        case = case_for(component).to(torch.float32)
        for sign in (1, -1):
            rewards = (sign * scale * case.rows["rewards"].tanh().abs()).requires_grad_()
            extreme = case.but(f"token rewards up to {sign * scale:g}", rewards=rewards)
            value = call(component, extreme)
            require_finite(value, "a reward", extreme)
            require_finite(gradient(value, rewards), "a gradient", extreme)
