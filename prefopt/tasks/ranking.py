"""Ranking metrics of scores against binary labels, and the error of their sparsity."""

from __future__ import annotations

import torch
from torch import Tensor


def auroc(scores: Tensor, positive: Tensor) -> float | None:
    """P(score of a positive > score of a negative) + P(equal) / 2, over all pairs of a positive and a negative.

    scores [M] float, positive [M] bool. 0.5 for scores independent of the class; None where either class is empty.
    """
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return None
    _, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = sizes.cumsum(0).double() - (sizes.double() - 1) / 2
    rank_sum = float(mean_ranks[group][positive].sum())
    return (rank_sum - count * (count + 1) / 2) / (count * others)


def average_precision(scores: Tensor, positive: Tensor) -> float | None:
    """sum_k (R_k - R_{k-1}) P_k, P and R precision and recall of the scores down to the k-th.

    scores [M] float, positive [M] bool. Equal scores are taken together, so that constant scores give the
    share of positives; None where there is no positive.
    """
    count = int(positive.sum())
    if not count:
        return None
    values, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    hits = torch.zeros(len(values), dtype=torch.float64).index_add_(0, group, positive.double()).flip(0)
    precision = hits.cumsum(0) / sizes.flip(0).cumsum(0)
    return float((hits / count * precision).sum())


def sparsity_error(weights: Tensor, truth: Tensor) -> float:
    """|share of weights that are exactly 0 - share of the truth that is|; weights, truth [M]."""
    return abs(float((weights == 0).double().mean() - (truth == 0).double().mean()))
