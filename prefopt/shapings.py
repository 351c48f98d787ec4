"""Reward shapings: from the token rewards of a response to the response's reward, before beta."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.component import RewardShaping
from prefopt.hookspecs import concrete_classes, hookimpl
from prefopt.stable import capped_exp, log1mexp
from prefopt.tokens import masked_mean, masked_sum


@final
class SumShaping(RewardShaping):
    """r(y) = sum_t r_t, over the response's tokens, never length-normalised.

    Source: DPO (arXiv 2305.18290) eq. 7.

    >>> SumShaping()(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]]), torch.tensor([True]))
    tensor([3.])
    """

    name: Literal["sum"] = "sum"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T], is_chosen [N] -> [N]."""
        return masked_sum(rewards, mask)


@final
class MeanShaping(RewardShaping):
    """r(y) = (1 / T) sum_t r_t, over the T tokens of the response.

    Source: SimPO (arXiv 2405.14734) eq. 4; also what IPO's authors take for its log-ratios.

    >>> MeanShaping()(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]]), torch.tensor([True]))
    tensor([1.5000])
    """

    name: Literal["mean"] = "mean"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T], is_chosen [N] -> [N]."""
        return masked_mean(rewards, mask)


@final
class PositiveShaping(RewardShaping):
    """r(y) = s - lam max(0, -s) for the chosen response, s for the rejected one, with s = sum_t r_t.

    The chosen response pays for every nat that it falls below the reference.
    Source: DPO-Positive (Smaug, arXiv 2402.13228) eq. 3.

    >>> PositiveShaping()(torch.tensor([[-1.0, 0.5]]), torch.tensor([[True, True]]), torch.tensor([True]))
    tensor([-25.5000])
    """

    name: Literal["positive"] = "positive"
    lam: float = Field(default=50.0, ge=0)

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T], is_chosen [N] -> [N]."""
        total = masked_sum(rewards, mask)
        return torch.where(is_chosen, total - self.lam * torch.relu(-total), total)


@final
class LogOddsShaping(RewardShaping):
    """r(y) = log(p / (1 - p)), log p = (1 / T) sum_t r_t: the log-odds of the response's mean probability.

    Source: ORPO (arXiv 2403.07691) eq. 4-5.

    >>> LogOddsShaping()(torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]]), torch.tensor([True]))
    tensor([-1.2475])
    """

    name: Literal["log_odds"] = "log_odds"

    @property
    def expected_failures(self) -> Mapping[str, str]:
        reason = (
            "rewards are log-probabilities here; a mean above 0, which none has, counts as the precision's largest "
            "number below 0"
        )
        return {"single_precision_agrees_with_double": reason}

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T] log-probabilities, mask [N, T], is_chosen [N] -> [N]."""
        mean = masked_mean(rewards, mask)
        return mean - log1mexp(mean)


@final
class ForwardKLShaping(RewardShaping):
    """r(y) = 1 - exp(-u), u = sum_t r_t: f'(pi / pi_ref) of the forward KL.

    Where -u > cap the exponential goes on as its tangent, which the paper does not do and no float can do without.
    Source: f-DPO (arXiv 2309.16240), table 1.

    >>> ForwardKLShaping()(torch.tensor([[0.5, 0.5]]), torch.tensor([[True, True]]), torch.tensor([True]))
    tensor([0.6321])
    """

    name: Literal["f_forward_kl"] = "f_forward_kl"
    cap: float = Field(default=30.0, gt=0)

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T], is_chosen [N] -> [N]."""
        return 1 - capped_exp(-masked_sum(rewards, mask), self.cap)


@final
class JensenShannonShaping(RewardShaping):
    """r(y) = log 2 + log sigmoid(u), u = sum_t r_t: f'(pi / pi_ref) of the Jensen-Shannon divergence.

    Source: f-DPO (arXiv 2309.16240), table 1.

    >>> JensenShannonShaping()(torch.tensor([[0.5, 0.5]]), torch.tensor([[True, True]]), torch.tensor([True]))
    tensor([0.3799])
    """

    name: Literal["f_jensen_shannon"] = "f_jensen_shannon"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T], is_chosen [N] -> [N]."""
        return math.log(2) + logsigmoid(masked_sum(rewards, mask))


@final
class AlphaShaping(RewardShaping):
    """r(y) = (exp((a - 1) u) - 1) / (a - 1), u = sum_t r_t: f'(pi / pi_ref) of an alpha divergence.

    a = 0 is the forward KL's, a -> 1 the reverse KL's. Where the exponent passes cap it goes on as its tangent.
    Source: f-DPO (arXiv 2309.16240), table 1, with the exponent written as TRL writes it.

    >>> AlphaShaping()(torch.tensor([[0.5, 0.5]]), torch.tensor([[True, True]]), torch.tensor([True]))
    tensor([0.7869])
    """

    name: Literal["f_alpha"] = "f_alpha"
    a: float = Field(default=0.5, ge=0, lt=1)
    cap: float = Field(default=30.0, gt=0)

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T], is_chosen [N] -> [N]."""
        slope = self.a - 1
        return (capped_exp(slope * masked_sum(rewards, mask), self.cap) - 1) / slope


@hookimpl
def prefopt_reward_shapings() -> list[type[RewardShaping]]:
    return concrete_classes(RewardShaping, sys.modules[__name__])  # type: ignore[type-abstract]
