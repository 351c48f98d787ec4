"""The demo's two statistics: how well weights single out some tokens, and how sure a mean is."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

__all__ = ["Interval", "auroc", "bootstrap"]


class Interval(BaseModel):
    """A mean with its 95% interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    low: float
    high: float


def auroc(scores: Tensor, positive: Tensor) -> float | None:
    """P(score of a positive > score of a negative) + P(equal) / 2, over all pairs of a positive and a negative.

    scores [M] float, positive [M] bool. 0.5 for scores that know nothing; None where either class is empty.
    """
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return None
    _, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    last = sizes.cumsum(0)
    mean_ranks = last.double() - (sizes.double() - 1) / 2
    rank_sum = float(mean_ranks[group][positive].sum())
    return (rank_sum - count * (count + 1) / 2) / (count * others)


def bootstrap(values: Tensor, *, seed: int, resamples: int = 2000) -> Interval:
    """The mean of values [M] and its percentile bootstrap interval, values being drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double()
    drawn = torch.randint(len(values), (resamples, len(values)), generator=generator)
    low, high = values[drawn].mean(-1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(mean=float(values.mean()), low=low, high=high)
