"""A floor under a mask: scores that are raised until a response's weights have their least mean."""

from __future__ import annotations

import torch
from torch import Tensor


def raised(scores: Tensor, mask: Tensor, floor: float) -> Tensor:
    """s_t + c for every response, c >= 0 the least number by which mean_t max(s_t + c, 0) is the floor.

    Where c > 0 the weights are the point nearest to the scores (in squares) among those of that mean: sparse, and never
    all zero. A number added to all scores of a response changes nothing there, so neither does a gradient that is equal
    on all weights, as that of an L1 is; what one token gains, others lose.

    scores [n], of the tokens that mask [N, T] keeps, row by row -> [n].
    """
    rows = scores.new_full(mask.shape, -torch.inf).masked_scatter(mask, scores)
    total = floor * mask.sum(-1).to(scores.dtype)  # [N]
    with torch.no_grad():
        ordered = rows.sort(dim=-1, descending=True).values
        counts = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        levels = (total[:, None] - ordered.cumsum(-1)) / counts  # c, if the highest 1, 2, .. scores stay above zero
        above = (ordered + levels > 0).sum(-1, keepdim=True).clamp(min=1)
        lowest = ordered.gather(-1, above - 1)
        support = mask & (rows >= lowest)
    sums = torch.where(support, rows, 0).sum(-1)
    level = torch.relu((total - sums) / support.sum(-1).clamp(min=1))
    return scores + level.repeat_interleave(mask.sum(-1), output_size=len(scores))
