"""Shapings, losses and regularisers with one fault each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.component import Component, PreferenceLoss, Regularizer, RewardShaping
from prefopt.tokens import TokenBatch, masked_mean, masked_sum


class OverNothing(RewardShaping):
    """r(y) = sum_t r_t / T, 0 / 0 for an empty response.

    Source: these tests.
    """

    name: Literal["bad_empty"] = "bad_empty"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        return masked_sum(rewards, mask) / mask.sum(-1)


class LessThePartner(RewardShaping):
    """r(y) = s(y) - s(y'), s the sum of token rewards, y' the other response of the pair.

    Source: these tests.
    """

    name: Literal["bad_responses"] = "bad_responses"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        total, order = masked_sum(rewards, mask), torch.argsort((~is_chosen).long(), stable=True)
        chosen, rejected = total[order].chunk(2)
        return torch.cat([chosen - rejected, rejected - chosen])[order.argsort()]


class ByPlace(RewardShaping):
    """r(y) = 2 sum_t r_t in the first half of the batch, sum_t r_t in the second.

    Source: these tests.
    """

    name: Literal["bad_sides"] = "bad_sides"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        chosen, rejected = masked_sum(rewards, mask).chunk(2)
        return torch.cat([2 * chosen, rejected])


class Exponential(RewardShaping):
    """r(y) = 1 - exp(-sum_t r_t), without a cap.

    Source: these tests.
    """

    name: Literal["bad_extreme"] = "bad_extreme"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        return 1 - torch.exp(-masked_sum(rewards, mask))


class Uphill(PreferenceLoss):
    """loss = -log sigmoid(d), its gradient the wrong way round.

    Source: these tests.
    """

    name: Literal["bad_descent"] = "bad_descent"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        loss = -logsigmoid(chosen - rejected)
        return 2 * loss.detach() - loss


class Reversed(PreferenceLoss):
    """loss = -log sigmoid(-d).

    Source: these tests.
    """

    name: Literal["bad_margin"] = "bad_margin"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return -logsigmoid(rejected - chosen)


class Spelt(PreferenceLoss):
    """loss = log(1 + exp(-d)), as it is spelt.

    Source: these tests.
    """

    name: Literal["bad_spelling"] = "bad_spelling"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return torch.log(1 + torch.exp(rejected - chosen))


class Bottomless(PreferenceLoss):
    """loss = -d.

    Source: these tests.
    """

    name: Literal["bad_bound"] = "bad_bound"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return rejected - chosen


class Coupling(PreferenceLoss):
    """loss = -log sigmoid(d + 0.1 mean d), the mean over the batch.

    Source: these tests.
    """

    name: Literal["bad_coupling"] = "bad_coupling"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        d = chosen - rejected
        return -logsigmoid(d + 0.1 * d.mean())


class Sorting(PreferenceLoss):
    """loss_i = -log sigmoid(sorted(d)_i).

    Source: these tests.
    """

    name: Literal["bad_sorting"] = "bad_sorting"

    @property
    def couples_pairs(self) -> bool:
        return True

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return -logsigmoid((chosen - rejected).sort().values)


class Unmapped(PreferenceLoss):
    """loss = -log sigmoid(d), written into a tensor that was made for it.

    Source: these tests.
    """

    name: Literal["bad_mapping"] = "bad_mapping"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        losses = torch.zeros(len(chosen), dtype=chosen.dtype)
        return losses.copy_(-logsigmoid(chosen - rejected))


class Likelihood(PreferenceLoss):
    """loss = -log sigmoid(d) - 0.01 mean_t log pi(y_t) of the chosen response.

    Source: these tests.
    """

    name: Literal["bad_term"] = "bad_term"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return -logsigmoid(chosen - rejected) - 0.01 * masked_mean(tokens.logps, tokens.mask)[: tokens.pairs]


class Broadcast(Regularizer):
    """penalty = -mean_t log pi(y_t) of the chosen response, [B, 1].

    Source: these tests.
    """

    name: Literal["bad_shape"] = "bad_shape"

    def __call__(self, tokens: TokenBatch, weights: Tensor, divergence_weights: Tensor) -> Tensor:
        return -masked_mean(tokens.logps, tokens.mask)[: tokens.pairs, None]


class Pole(Regularizer):
    """penalty = -mean_t log pi(y_t) of the chosen response, infinite near 4.6.

    Source: these tests.
    """

    name: Literal["bad_pole"] = "bad_pole"

    def __call__(self, tokens: TokenBatch, weights: Tensor, divergence_weights: Tensor) -> Tensor:
        mean = -masked_mean(tokens.logps, tokens.mask)[: tokens.pairs]
        return torch.where((mean - 4.6).abs() < 0.05, torch.inf, mean)


SABOTEURS: dict[str, type[Component]] = {
    "empty_responses_are_finite": OverNothing,
    "responses_do_not_leak": LessThePartner,
    "sides_are_told_by_is_chosen": ByPlace,
    "extreme_token_rewards_are_finite": Exponential,
    "objective_descends": Uphill,
    "loss_falls_as_the_margin_grows": Reversed,
    "loss_is_finite_at_extreme_rewards": Spelt,
    "loss_is_bounded_below": Bottomless,
    "coupling_is_declared": Coupling,
    "sorting_is_declared": Sorting,
    "loss_maps_over_units": Unmapped,
    "whole_responses_are_declared": Likelihood,
    "one_value_each": Broadcast,
    "values_are_finite": Pole,
}
