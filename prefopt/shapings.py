"""Reward shapings: from the token rewards of a response to the response's reward, before beta."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from prefopt.component import RewardShaping
from prefopt.hookspecs import hookimpl
from prefopt.tokens import masked_mean, masked_sum

__all__ = ["MeanShaping", "PositiveShaping", "SumShaping"]


@final
class SumShaping(RewardShaping):
    """r(y) = sum_t r_t, over the response's tokens, never length-normalised.

    Source: DPO (arXiv 2305.18290) eq. 7.
    """

    name: Literal["sum"] = "sum"

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T], is_chosen [N] -> [N]."""
        return masked_sum(rewards, mask)


@final
class MeanShaping(RewardShaping):
    """r(y) = (1 / T) sum_t r_t, over the T tokens of the response.

    Source: SimPO (arXiv 2405.14734) eq. 4; also what IPO's authors take for its log-ratios.
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
    """

    name: Literal["positive"] = "positive"
    lam: float = Field(default=50.0, ge=0)

    def __call__(self, rewards: Tensor, mask: Tensor, is_chosen: Tensor) -> Tensor:
        """rewards [N, T], mask [N, T], is_chosen [N] -> [N]."""
        total = masked_sum(rewards, mask)
        return torch.where(is_chosen, total - self.lam * torch.relu(-total), total)


@hookimpl
def prefopt_reward_shapings() -> list[type[RewardShaping]]:
    return [SumShaping, MeanShaping, PositiveShaping]
