"""Checks of reward shapings and preference losses."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from prefopt.component import PreferenceLoss, RewardShaping
from prefopt.testing.cases import Case, case_for
from prefopt.testing.check import check
from prefopt.testing.trial import (
    arguments,
    build,
    call,
    gradient,
    require,
    require_finite_with_gradient,
    require_same,
    same,
)


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
            rewards = sign * scale * case.rows["rewards"].tanh().abs()
            extreme, leaf = case.but(f"token rewards up to {sign * scale:g}", rewards=rewards).with_gradient("rewards")
            require_finite_with_gradient(call(component, extreme), leaf, "a reward", extreme)


def _with(case: Case, chosen: float, rejected: float) -> Case:
    rewards = case.rows["response_rewards"]
    level = torch.where(case.is_chosen, rewards.new_tensor(chosen), rewards.new_tensor(rejected))
    return case.but(f"rewards {chosen:g} of the chosen and {rejected:g} of the rejected", response_rewards=level)


@check(PreferenceLoss)
def loss_falls_as_the_margin_grows(component: PreferenceLoss) -> None:
    """Where both rewards are zero, the loss falls as the chosen one rises and the rejected one falls as much.

    Training begins there, policy and reference being the same. A loss that rises teaches the wrong preference first.
    """
    case = case_for(component)
    before, after = (call(component, _with(case, step, -step)).mean() for step in (0.0, 1e-3))
    require(
        after < before, f"the mean loss goes from {float(before):.9g} to {float(after):.9g}", _with(case, 1e-3, -1e-3)
    )


@check(PreferenceLoss)
def loss_is_finite_at_extreme_rewards(component: PreferenceLoss) -> None:
    """Rewards of up to 10 000, of either sign, give finite losses and gradients, in float32.

    One broken pair must not end a run. Write -logsigmoid(d) for log(1 + exp(-d)), which overflows at d = -89.
    """
    case = case_for(component).to(torch.float32)
    for chosen, rejected in product((-1e4, -100.0, 0.0, 1e4), repeat=2):
        extreme, rewards = _with(case, chosen, rejected).with_gradient("response_rewards")
        require_finite_with_gradient(call(component, extreme), rewards, "a loss", extreme)


@check(PreferenceLoss)
def loss_is_bounded_below(component: PreferenceLoss) -> None:
    """The loss does not fall without end as rewards grow.

    A loss that does is lowest where the policy is broken: the better pairs that are settled already pay for the worse
    ones, without limit.
    """
    case = case_for(component)

    def lowest(scale: float) -> float:
        grid = product((-scale, 0.0, scale), repeat=2)
        return min(float(call(component, _with(case, *rewards)).detach().min()) for rewards in grid)

    near, far = lowest(1e3), lowest(1e6)
    require(far > near - 1, f"its lowest value goes from {near:.3g} to {far:.3g}", "rewards up to 1e3, then 1e6")


@check(PreferenceLoss)
def coupling_is_declared(component: PreferenceLoss) -> None:
    """`couples_pairs` is true if, and only if, the loss of a pair in training depends on the other pairs of its batch.

    Where it does, accumulated gradients are not those of one large batch, and the trainer has to know.
    """
    case = case_for(component)
    whole = _trained(component, case)
    parts = torch.cat([_trained(component, case.of_pairs([pair])) for pair in range(case.number)])
    depends = not same(parts, whole)
    require(
        depends == component.couples_pairs,
        f"pair by pair the losses are {'others' if depends else 'the same'}, but couples_pairs is {not depends}",
        case,
    )


@check(PreferenceLoss)
def sorting_is_declared(component: PreferenceLoss) -> None:
    """`sorts_pairs` is true if, and only if, the losses do not come in the order of the pairs.

    Weights by pair, from the data or the policy, are laid on the losses in the order of the pairs.
    """
    case = case_for(component)
    order = [2, 0, 1]
    sorts = not same(_trained(component, case.of_pairs(order)), _trained(component, case)[order])
    require(
        sorts == component.sorts_pairs,
        f"the losses {'do not ' if sorts else ''}follow the order of the pairs, but sorts_pairs is {not sorts}",
        case,
    )


def _sees_one_pair(component: PreferenceLoss) -> bool:
    return not component.couples_pairs


@check(PreferenceLoss, applies=_sees_one_pair)
def loss_maps_over_units(component: PreferenceLoss) -> None:
    """Mapped over several rewards of each pair by torch.vmap, the losses and their gradients are those of one after the
    other.

    With units, rewards are [B, K], and the loss is mapped over K. What branches on values, or writes into a tensor made
    for its losses, does not map: write torch.where and return what is computed. An autograd function needs a rule for
    vmap.
    """
    case = case_for(component)
    function, tokens = build(component), case.tokens()
    levels = torch.tensor([-1.5, 0.0, 2.0], dtype=case.dtype)
    rewards = (case.rows["response_rewards"][:, None] + levels * levels.roll(1)).requires_grad_()
    chosen, rejected = rewards.chunk(2)
    mapped = torch.vmap(lambda one, two: function(one, two, tokens), in_dims=1, out_dims=1)(chosen, rejected)
    columns = zip(chosen.unbind(1), rejected.unbind(1), strict=True)
    single = torch.stack([function(one, two, tokens) for one, two in columns], 1)
    require_same(mapped, single, "a loss", case)
    require_same(gradient(mapped, rewards), gradient(single, rewards), "a gradient", case)


@check(PreferenceLoss)
def whole_responses_are_declared(component: PreferenceLoss) -> None:
    """Where the loss passes gradient to the policy beside that of its two rewards, `reads_whole_responses` is true.

    With units the loss is taken of each unit of a pair, and a term of the responses' tokens would be added once for
    each. Where it is declared, an objective with units refuses the loss.
    """
    case, logits = case_for(component).with_gradient()
    passes = bool(gradient(call(component, case), logits).any())
    require(
        component.reads_whole_responses or not passes,
        "it passes gradient to log-probabilities of tokens, but reads_whole_responses is False",
        case,
    )


def _trained(component: PreferenceLoss, case: Case) -> Tensor:
    """The losses of a first step in training."""
    function = build(component)
    if isinstance(function, torch.nn.Module):
        function.train()
    return call(component, case, function).detach()
