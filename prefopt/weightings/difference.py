"""Weights by what the two responses of a pair do not have in common."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from prefopt.component import TokenWeighting
from prefopt.tokens import TokenBatch


@final
class DifferenceWeighting(TokenWeighting):
    """w_t = 0 on the tokens of a longest common subsequence of the pair's responses, 1 on the others.

    What a difference of two texts marks as taken out and put in. Of several longest ones, that is taken which lies
    latest in the chosen response and, for it, earliest in the rejected one. A response that is wholly in the other
    one, such as its beginning, has weights that are all zero. It costs 2 T small steps a batch and B T^2 numbers of 32
    bits.
    Source: this package; FIGA (arXiv 2311.04072) trains on such differences, without a pairwise loss.

    >>> ids = torch.tensor([[5, 6, 7, 8], [5, 9, 7, 0]])
    >>> DifferenceWeighting()(TokenBatch(torch.zeros(2, 4), torch.zeros(2, 4), ids > 0, ids)).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]
    """

    name: Literal["difference"] = "difference"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        ids, rejected_ids = tokens.token_ids.chunk(2)
        scored, rejected_scored = tokens.mask.chunk(2)
        alike = (ids[:, :, None] == rejected_ids[:, None, :]) & scored[:, :, None] & rejected_scored[:, None, :]
        common = torch.cat(_common(alike))
        return (tokens.mask & ~common).to(tokens.logps.dtype)


def _common(alike: Tensor) -> tuple[Tensor, Tensor]:
    """alike [B, T, T], of chosen and rejected tokens -> [B, T] bool, those of a longest common subsequence, each."""
    pairs, length, _ = alike.shape
    # longest[i][:, j]: the longest common subsequence of what follows from chosen token i and from rejected token j.
    longest = [alike.new_zeros(pairs, length + 1, dtype=torch.int32)]
    for row in reversed(range(length)):
        below = longest[-1]
        best = torch.maximum(below[:, :-1], below[:, 1:] + 1 * alike[:, row]).flip(-1).cummax(-1).values.flip(-1)
        longest.append(torch.cat([best, below[:, -1:]], dim=-1).to(torch.int32))
    longest.reverse()
    start = alike.new_zeros(pairs, 1, dtype=torch.int64)
    steps = torch.arange(length, device=alike.device)
    chosen, rejected = [], torch.zeros_like(alike[:, 0])
    for row in range(length):
        needed = longest[row].gather(-1, start) > longest[row + 1].gather(-1, start)  # [B, 1]
        candidates = alike[:, row] & (steps >= start) & needed
        first = candidates & (candidates.cumsum(-1) == 1)
        chosen.append(needed[:, 0])
        rejected = rejected | first
        start = torch.where(needed, first.to(torch.int64).argmax(-1, keepdim=True) + 1, start)
    return torch.stack(chosen, dim=-1), rejected
