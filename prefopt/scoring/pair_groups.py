"""The pairs of a batch in groups whose logits fit the budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from prefopt.objective import Objective
from prefopt.scoring.lm_head.chunk_sizes import max_saved_tokens
from prefopt.scoring.rows.layout import Layout


@final
@dataclass(frozen=True, eq=False)
class Group:
    """Consecutive pairs of a batch.

    pairs         b, their number
    rows [2 b]    their responses among all N, chosen first
    tokens [m]    their response tokens among all M, in the order of the rows
    exceeds       whether it is one pair, whose logits exceed the budget
    """

    pairs: int
    rows: Tensor
    tokens: Tensor
    exceeds: bool

    def narrow(self, layout: Layout) -> Layout:
        """The layout with the responses of this group alone, in the models' full rows."""
        return replace(
            layout,
            mask=layout.mask[self.rows],
            token_ids=layout.token_ids[self.rows],
            query_positions=layout.query_positions[self.tokens],
            label_positions=layout.label_positions[self.tokens],
            token_positions=self._narrowed_positions(layout),
            columns={
                name: values[self.rows if values.ndim > 1 else self.rows[: self.pairs]]
                for name, values in layout.columns.items()
            },
        )

    def _narrowed_positions(self, layout: Layout) -> Tensor:
        """The positions of the group's tokens among its own rows."""
        numbers = torch.arange(len(self.rows), device=self.rows.device)
        row_number = numbers.new_zeros(len(layout.mask))
        row_number[self.rows] = numbers
        positions, width = layout.token_positions[self.tokens], layout.mask.shape[1]
        return row_number[positions // width] * width + positions % width


def group_pairs(mask: Tensor, max_tokens: int) -> list[Group]:
    """The pairs of mask [N, T] in order, in the fewest groups of at most `max_tokens` response tokens or of one pair,
    and of those in the evenest: the memory is that of the largest."""
    device, mask = mask.device, mask.cpu()  # the host waits for the device once
    rows, lengths = torch.arange(len(mask)), mask.sum(-1)
    row_of_token = rows.repeat_interleave(lengths)
    pairs = len(mask) // 2
    starts = _even_starts((lengths[:pairs] + lengths[pairs:]).tolist(), max_tokens)
    groups = []
    for start, stop in zip(starts, [*starts[1:], pairs], strict=True):
        in_group = (rows % pairs >= start) & (rows % pairs < stop)
        tokens_of_group = in_group[row_of_token].nonzero()[:, 0]
        placed = rows[in_group].to(device), tokens_of_group.to(device)
        groups.append(Group(stop - start, *placed, len(tokens_of_group) > max_tokens))
    return groups


def _even_starts(lengths: Sequence[int], most: int) -> list[int]:
    """The first pair of every group, from the pairs' tokens."""
    fewest = len(_starts(lengths, most))
    limits = range(max((length for length in lengths if length <= most), default=most), most)
    least = bisect_left(limits, True, key=lambda limit: len(_starts(lengths, limit)) == fewest)
    return _starts(lengths, limits.start + least)


def _starts(lengths: Sequence[int], most: int) -> list[int]:
    """The same where every group takes all pairs that fit."""
    starts, tokens = [0], 0
    for pair, length in enumerate(lengths):
        if tokens and tokens + length > most:
            starts.append(pair)
            tokens = 0
        tokens += length
    return starts


def groups_for_budget(objective: Objective, layout: Layout, weight: Tensor, budget: int | None) -> list[Group]:
    """The pairs of a layout in groups whose logits fit the budget in bytes, with a head of weight [V, H]; none where
    those of all do, or pairs depend on each other."""
    max_saved = max_saved_tokens(budget, weight, objective.config.exact_divergence)
    if not torch.is_grad_enabled() or not objective.takes_pairs_apart or len(layout.token_positions) <= max_saved:
        return []
    return group_pairs(layout.mask, max_saved)
