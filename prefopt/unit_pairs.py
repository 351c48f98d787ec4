"""Units of the responses of a batch, matched with their partners: their rewards, and the losses of these pairs.

Where the module that units build has a method `baseline`, (TokenBatch) -> b [N, T], 0 off the response, the margin of
two partners is measured from what it says of both,

    d_k = r_c,k - r_j,k - beta c_k,   c_k = b_j,k - b_c,k less its mean over the pair's units, within -limit and limit

with b_k that of a unit's first token, the mean weighted as the loss is, and `limit` the module's. Without the mean a
baseline would raise all margins of a pair at once, and so learn nothing of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal, Self, final

import torch
from torch import Tensor, nn

from prefopt.component import LossFunction, RewardShaping, Units
from prefopt.metrics import Mean
from prefopt.tokens import TokenBatch, masked_sum

__all__ = ["UnitPairs", "has_baseline"]


@final
@dataclass(frozen=True, eq=False)
class UnitPairs:
    """The units that are compared, K at most in a pair of responses.

    places [N, T]   int64: which of its response's units each token is in, 0 to K - 1, or -1 for none; partners have
                    the same place
    weights [B, K]  of each in the loss of its pair; 0 where there is no unit
    unpaired [N, T] bool: response tokens whose unit has no partner, or that are in none
    shifts [B, K]   c before it is limited, 0 where nothing counts; None where the units have no baseline
    limit           of c
    """

    places: Tensor
    weights: Tensor
    unpaired: Tensor
    reduction: Literal["mean", "sum"]
    tokens: TokenBatch
    shifts: Tensor | None = None
    limit: float = inf

    @classmethod
    def match(cls, units: Units, tokens: TokenBatch, function: Callable[[TokenBatch], Tensor] | None = None) -> Self:
        """The units of a batch, as the function numbers them that they built, or they themselves. Raises TypeError
        where numbers are not int64, ValueError where one has no weight column or a baseline has another shape."""
        none = torch.iinfo(torch.int64).max
        numbers = (units if function is None else function)(tokens)
        if numbers.dtype != torch.int64:
            raise TypeError(f"units {units.name!r} are numbered in {numbers.dtype}; give int64")
        both = torch.cat(torch.where(tokens.mask & (numbers >= 0), numbers, none).chunk(2), 1)  # [B, 2T]
        values, order = both.sort(dim=1, stable=True)
        groups = torch.zeros_like(order).scatter(1, order, _begins(values).cumsum(1) - 1)
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
        pairs = cls(
            places=torch.cat(places.chunk(2, dim=1)),
            weights=weights,
            unpaired=torch.cat((~kept | ~paired.gather(1, groups)).chunk(2, dim=1)) & tokens.mask,
            reduction=units.reduction,
            tokens=tokens,
        )
        return pairs._with_baseline(units, function) if has_baseline(function) else pairs

    def _with_baseline(self, units: Units, module: Any) -> Self:
        if units.unpaired == "zero":
            raise ValueError(
                f"units {units.name!r} have a baseline, which has nothing to be compared with where a unit has no "
                "partner; leave `unpaired` at left_out"
            )
        baseline = module.baseline(self.tokens)
        if baseline.shape != self.places.shape:
            shapes = f"of shape {tuple(baseline.shape)}, where one of shape {tuple(self.places.shape)} is needed"
            raise ValueError(f"units {units.name!r} give a baseline {shapes}")
        return replace(self, shifts=self._shifts(baseline), limit=module.limit)

    def _shifts(self, baseline: Tensor) -> Tensor:
        """c before it is limited, [B, K], from the baseline of tokens [N, T]."""
        (responses, width), count = self.places.shape, self.weights.shape[1]
        places, order = torch.where(self.places >= 0, self.places, count).sort(dim=1, stable=True)
        first = (_begins(places) & (places < count)).flatten().nonzero()[:, 0]
        rows = torch.arange(responses, device=places.device)[:, None]
        units, tokens = ((rows * size + at).flatten()[first] for size, at in ((count, places), (width, order)))
        values = baseline.flatten()[tokens].to(self.weights.dtype)
        chosen, rejected = values.new_zeros(responses * count).index_put((units,), values).view(-1, count).chunk(2)
        counts = self.weights > 0
        differences = torch.where(counts, rejected - chosen, 0)
        weight = self.weights.sum(1, keepdim=True)
        mean = (self.weights * differences).sum(1, keepdim=True) / torch.where(weight > 0, weight, 1)
        return torch.where(counts, differences - mean, 0)

    def rewards(self, shaping: RewardShaping, rewards: Tensor) -> Tensor:
        """The shaped rewards of units, [N, K], from token rewards [N, T], less c / 2 in the chosen response and more in
        the rejected one; 0 where there is no unit.

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
        of_units = shaped.new_zeros(rows.numel() * count).index_put((units,), shaped).view(-1, count)
        if self.shifts is None:
            return of_units
        halves = self.shifts.clamp(-self.limit, self.limit) / 2
        return of_units + torch.cat([-halves, halves])

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
        nothing since no unit of theirs counts; with a baseline the mean of |c|, and the share of units at its limit."""
        counted = self.weights > 0
        of_baseline = {}
        if self.shifts is not None:
            sizes = self.shifts.abs()
            of_baseline["units/baseline"] = Mean.where(sizes.clamp(max=self.limit), counted)
            of_baseline["units/limited"] = Mean.where(sizes > self.limit, counted)
        return {
            "units/compared": Mean.from_values(counted.sum(1)),
            "units/unpaired": Mean.from_values(self.unpaired[self.tokens.mask]),
            "units/none": Mean.from_values(~counted.any(1)),
            **of_baseline,
        }


def has_baseline(function: object) -> bool:
    """Whether what units built has a baseline."""
    return isinstance(function, nn.Module) and hasattr(function, "baseline")


def _begins(values: Tensor) -> Tensor:
    """Where another value begins in rows that are sorted, [..., T] bool."""
    return torch.cat([torch.ones_like(values[:, :1], dtype=torch.bool), values[:, 1:] != values[:, :-1]], 1)


def _weights(columns: tuple[str, ...], numbers: Tensor, tokens: TokenBatch) -> Tensor:
    """[B, K]: of each unit, by its number."""
    if int(numbers.max()) >= len(columns):
        raise ValueError(f"unit {int(numbers.max())} has no weight: {', '.join(columns)} weigh units from 0 on")
    table = torch.stack([tokens.columns[name] for name in columns], 1).to(tokens.logps.dtype)
    return table.gather(1, numbers)
