"""Units of the responses of a batch, matched with their partners: their rewards, and the losses of these pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, final

import torch
from torch import Tensor

from prefopt.component import LossFunction, RewardShaping, Units
from prefopt.metrics import Mean
from prefopt.tokens import TokenBatch, masked_sum

__all__ = ["UnitPairs"]


@final
@dataclass(frozen=True, eq=False)
class UnitPairs:
    """The units that are compared, K at most in a pair of responses.

    places [N, T]   int64: which of its response's units each token is in, 0 to K - 1, or -1 for none; partners have
                    the same place
    weights [B, K]  of each in the loss of its pair; 0 where there is no unit
    unpaired [N, T] bool: response tokens whose unit has no partner, or that are in none
    """

    places: Tensor
    weights: Tensor
    unpaired: Tensor
    reduction: Literal["mean", "sum"]
    tokens: TokenBatch

    @classmethod
    def match(cls, units: Units, tokens: TokenBatch) -> Self:
        """The units of a batch. Raises TypeError where numbers are not int64, ValueError where one has
        no weight column."""
        none = torch.iinfo(torch.int64).max
        numbers = units(tokens)
        if numbers.dtype != torch.int64:
            raise TypeError(f"units {units.name!r} are numbered in {numbers.dtype}; give int64")
        both = torch.cat(torch.where(tokens.mask & (numbers >= 0), numbers, none).chunk(2), 1)  # [B, 2T]
        values, order = both.sort(dim=1, stable=True)
        begins = torch.cat([torch.ones_like(values[:, :1], dtype=torch.bool), values[:, 1:] != values[:, :-1]], 1)
        groups = torch.zeros_like(order).scatter(1, order, begins.cumsum(1) - 1)
        kept, blank = both != none, torch.zeros_like(both, dtype=torch.bool)
        in_chosen, in_rejected = (
            blank.scatter(1, part, held)
            for part, held in zip(groups.chunk(2, dim=1), kept.chunk(2, dim=1), strict=True)
        )
        paired = in_chosen & in_rejected
        compared = paired if units.unpaired == "left_out" else in_chosen | in_rejected
        places = torch.where(kept & compared.gather(1, groups), (compared.cumsum(1) - 1).gather(1, groups), -1)
        count = max(1, int(compared.sum(1).max()))
        held = torch.arange(count, device=both.device) < compared.sum(1, keepdim=True)
        weights = held.to(tokens.logps.dtype)
        if units.weight_columns:
            # The number of each unit, at its place; tokens of no unit write to a last column, which is cut off.
            slots = torch.where(places >= 0, places, count)
            of_units = both.new_zeros(len(both), count + 1).scatter(1, slots, both)[:, :-1]
            weights = torch.where(held, _weights(units.weight_columns, of_units * held, tokens), 0)
        return cls(
            places=torch.cat(places.chunk(2, dim=1)),
            weights=weights,
            unpaired=torch.cat((~kept | ~paired.gather(1, groups)).chunk(2, dim=1)) & tokens.mask,
            reduction=units.reduction,
            tokens=tokens,
        )

    def rewards(self, shaping: RewardShaping, rewards: Tensor) -> Tensor:
        """The shaped rewards of units, [N, K], from token rewards [N, T]; 0 where there is no unit.

        A unit's tokens are to the shaping what those of a response are: alone in their row, on its left.
        """
        count = self.weights.shape[1]
        in_unit = (self.places >= 0).flatten().nonzero()[:, 0]
        rows = torch.arange(len(self.places), device=in_unit.device)[:, None]
        units, order = (rows * count + self.places).flatten()[in_unit].sort(stable=True)
        units, row, lengths = torch.unique_consecutive(units, return_inverse=True, return_counts=True)
        column = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
        width = max(1, int(lengths.max())) if len(lengths) else 1
        apart = rewards.new_zeros(len(units), width).index_put((row, column), rewards.flatten()[in_unit[order]])
        mask = torch.arange(width, device=row.device) < lengths[:, None]
        shaped = shaping(apart, mask, self.tokens.is_chosen[units // count])
        return shaped.new_zeros(rows.numel() * count).index_put((units,), shaped).view(-1, count)

    def losses(self, loss: LossFunction, rewards: Tensor) -> Tensor:
        """The losses of pairs of responses [B] from rewards of units [N, K]: the weighted mean or sum over units."""
        chosen, rejected = rewards.chunk(2)

        def of_one(chosen: Tensor, rejected: Tensor) -> Tensor:
            return loss(chosen, rejected, self.tokens)

        # Place by place, so that the loss sees one unit of each pair, and finds what it reads of the batch where it is.
        of_units: Tensor = torch.vmap(of_one, in_dims=1, out_dims=1)(chosen, rejected)
        total = masked_sum(self.weights * torch.where(self.weights > 0, of_units, 0), self.weights > 0)
        if self.reduction == "sum":
            return total
        weight = self.weights.sum(1)
        return total / torch.where(weight > 0, weight, 1)

    def metrics(self) -> dict[str, Mean]:
        """Units compared in each pair, the share of response tokens without a partner, the share of pairs that train
        nothing since no unit of theirs counts."""
        counted = self.weights > 0
        return {
            "units/compared": Mean.from_values(counted.sum(1)),
            "units/unpaired": Mean.from_values(self.unpaired[self.tokens.mask]),
            "units/none": Mean.from_values(~counted.any(1)),
        }


def _weights(columns: tuple[str, ...], numbers: Tensor, tokens: TokenBatch) -> Tensor:
    """[B, K]: of each unit, by its number."""
    if int(numbers.max()) >= len(columns):
        raise ValueError(f"unit {int(numbers.max())} has no weight: {', '.join(columns)} weigh units from 0 on")
    table = torch.stack([tokens.columns[name] for name in columns], 1).to(tokens.logps.dtype)
    return table.gather(1, numbers)
