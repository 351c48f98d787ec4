"""Units: the parts of two responses that are compared with each other, where these are not the responses themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Literal, Self, final

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from prefopt.columns import Column, PairColumn, TokenColumn
from prefopt.component import Signal, Units, built
from prefopt.hookspecs import concrete_classes, hookimpl
from prefopt.tokens import TokenBatch


@final
class TokenUnits(Units):
    """u_t = t: each token is a unit, and has the token at its own position in the other response for a partner.

    Tokens beyond the shorter response's end have none.
    Source: TBPO (arXiv 2605.12288); the code released with cDPO (arXiv 2411.19943), with `unpaired: zero`.

    >>> TokenUnits(reduction="sum").unpaired
    'left_out'
    """

    name: Literal["token"] = "token"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return torch.where(tokens.mask, torch.arange(tokens.mask.shape[1], device=tokens.mask.device), -1)


class _RankedUnits(Units):
    """Units of several tokens, with ranks by the score of their first token, from the token column `score`, >= 0."""

    pairing: Literal["number", "index", "rank"] = "index"
    score: str = "score"

    @model_validator(mode="after")
    def _scores_are_read(self) -> Self:
        if self.pairing != "rank" and self.score != type(self).model_fields["score"].default:
            raise ValueError(f"score is read with `pairing: rank` alone, not with {self.pairing}; leave it out")
        return self

    def _ranked(self, numbers: Tensor, tokens: TokenBatch) -> Tensor:
        """[N, T]: units numbered by score, the chosen response's best and the rejected one's worst first; of equal
        scores the one that appears first. `numbers` are as `_by_appearance` gives them."""
        scores = torch.where(tokens.mask, tokens.columns[self.score], 0)
        scores = torch.where(tokens.is_chosen[:, None], -scores, scores)
        reached = torch.cat([numbers.new_full((len(numbers), 1), -1), numbers.cummax(1).values[:, :-1]], 1)
        # Its first token writes a unit's score into its slot, other tokens into a last one, which is cut off.
        slots = torch.where(numbers > reached, numbers, numbers.shape[1])
        of_units = scores.new_full((len(scores), scores.shape[1] + 1), torch.inf).scatter(1, slots, scores)[:, :-1]
        ranks = of_units.argsort(dim=1, stable=True).argsort(dim=1)
        return torch.where(numbers >= 0, ranks.gather(1, numbers.clamp(min=0)), -1)

    def _score_columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn(self.score, at_least=0.0)} if self.pairing == "rank" else ())


@final
class SeparatedUnits(_RankedUnits):
    """u_t = the number of separators that end before y_t: the parts between separators, which end their part.

    Reads the token column that `column` names, in which tokens of a separator are above 0, so that a row marks
    separators as spans {start, end}. Adjacent tokens above 0 are one separator.

    pairing  index: the first part with the first, and so on; rank: the chosen response's best with the rejected one's
             worst, by the column `score`, numbers >= 0, of which a part has that of its first token
    Source: segments, as in 2D-DPO (arXiv 2410.19720) and AW-DPO (arXiv 2602.21346); marked by separators, this package.

    >>> [column.name for column in SeparatedUnits(column="newline").columns]
    ['newline']
    """

    name: Literal["separated"] = "separated"
    column: str = "separator"
    pairing: Literal["index", "rank"] = "index"

    @property
    def columns(self) -> frozenset[Column]:
        return self._score_columns() | {TokenColumn(self.column, at_least=0.0)}

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        separates = tokens.mask & (tokens.columns[self.column] > 0)
        begins = separates[:, :-1] & ~separates[:, 1:] & tokens.mask[:, 1:]
        numbers = torch.cat([torch.zeros_like(separates[:, :1]), begins], 1).cumsum(1)
        numbers = torch.where(tokens.mask, numbers, -1)
        return self._ranked(numbers, tokens) if self.pairing == "rank" else numbers


@final
class NumberedUnits(_RankedUnits):
    """u_t = the number that the data gives for y_t, `default` where it gives none.

    Reads the token column that `column` names, whole numbers >= 0, or -1 for no unit: of a row, its fields
    chosen_COLUMN and rejected_COLUMN, numbers or spans.

    pairing  number: units of the same number; index: in the order of their first tokens; rank: the chosen response's
             best with the rejected one's worst, by the column `score`, numbers >= 0, of which a unit has that of its
             first token
    weights  pair columns, numbers >= 0, with the weight of unit 0, 1, ...; then no number may be higher
    Source: 2D-DPO (arXiv 2410.19720), by rank; AW-DPO (arXiv 2602.21346), with weights.

    >>> sorted(column.name for column in NumberedUnits(weights=("gap_reasoning", "gap_answer")).columns)
    ['gap_answer', 'gap_reasoning', 'unit']
    """

    name: Literal["numbered"] = "numbered"
    column: str = "unit"
    default: int = Field(default=-1, ge=-1, le=2**24)
    pairing: Literal["number", "index", "rank"] = "number"
    weights: tuple[str, ...] = ()

    @property
    def weight_columns(self) -> tuple[str, ...]:
        return self.weights

    @property
    def columns(self) -> frozenset[Column]:
        most = len(self.weights) - 1 if self.weights else None
        units = TokenColumn(self.column, default=float(self.default), at_least=-1.0, at_most=most, whole=True)
        weights = {PairColumn(name, at_least=0.0) for name in self.weights}
        return self._score_columns() | {units} | weights

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        numbers = torch.where(tokens.mask, tokens.columns[self.column], -1).long()
        if self.pairing == "number":
            return numbers
        numbers = _by_appearance(numbers)
        return self._ranked(numbers, tokens) if self.pairing == "rank" else numbers

    @model_validator(mode="after")
    def _every_unit_has_a_weight(self) -> Self:
        if self.weights and self.default >= len(self.weights):
            raise ValueError(f"unit {self.default}, the default, has no weight: there are {len(self.weights)}, from 0")
        return self


def _by_appearance(numbers: Tensor) -> Tensor:
    """[N, T]: the units of each response numbered 0, 1, ... in the order of their first tokens."""
    none, width = torch.iinfo(numbers.dtype).max, numbers.shape[1]
    values, order = torch.where(numbers >= 0, numbers, none).sort(dim=1, stable=True)
    begins = torch.cat([torch.ones_like(values[:, :1], dtype=torch.bool), values[:, 1:] != values[:, :-1]], 1)
    groups = begins.cumsum(1) - 1
    # Each group's first position, at its number; other tokens, and those in no unit, write to a column that is cut off.
    slots = torch.where(begins & (values != none), groups, width)
    first = torch.full_like(numbers, width)
    first = torch.cat([first, first[:, :1]], 1).scatter(1, slots, order)[:, :-1]
    ranks = first.argsort(dim=1, stable=True).argsort(dim=1)
    ordered = torch.zeros_like(numbers).scatter(1, order, ranks.gather(1, groups))
    return torch.where(numbers >= 0, ordered, -1)


@final
class StateBaselineUnits(Units):
    """d_k = r_c,k - r_j,k - beta c_k, c_k = u . (h_j,k - h_c,k) less its mean over k, within -limit and limit.

    The units are those that `units` numbers, and their margins are measured from a learned baseline: h is the policy's
    last hidden state where a unit's first token is predicted, the prefix that the unit continues, and passes no
    gradient. So what two prefixes make likely by themselves is not taken for a preference. u starts at 0, where c is 0,
    and moves once the margins of a pair's units differ; a constant beside it would cancel. A pair of one unit has no c.

    units     whose numbers, columns and weights these are; `reduction` is read here, not there
    limit     of c, in nats
    unpaired  a unit without a partner has no state to compare with
    Source: TBPO-Q (arXiv 2605.12288), with units of tokens.

    >>> StateBaselineUnits(units=TokenUnits()).build(num_layers=2, hidden_size=8).weight.shape
    torch.Size([8])
    """

    name: Literal["state_baseline"] = "state_baseline"
    units: SerializeAsAny[Units] = TokenUnits()
    limit: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    unpaired: Literal["left_out"] = "left_out"

    @property
    def requires(self) -> frozenset[Signal]:
        return self.units.requires | {Signal.LAST_STATES}

    @property
    def activation_kinds(self) -> frozenset[str]:
        return self.units.activation_kinds

    @property
    def columns(self) -> frozenset[Column]:
        return self.units.columns

    @property
    def weight_columns(self) -> tuple[str, ...]:
        return self.units.weight_columns

    @property
    def expected_failures(self) -> Mapping[str, str]:
        return self.units.expected_failures

    @property
    def has_baseline(self) -> bool:
        return True

    def __call__(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return self.units(tokens)

    def build(self, *, num_layers: int, hidden_size: int) -> StateBaseline:
        """The units with their baseline, for a policy of that hidden size. Raises ValueError where they have one that
        they do not declare."""
        numbers = built(self.units, num_layers=num_layers, hidden_size=hidden_size)
        if isinstance(numbers, nn.Module) and hasattr(numbers, "baseline"):
            raise ValueError(f"units: {self.units.name!r} have a baseline already; leave one of the two out")
        return StateBaseline(numbers, hidden_size, self.limit)

    @model_validator(mode="after")
    def _options_are_read(self) -> Self:
        if self.units.has_baseline:
            raise ValueError(f"units: {self.units.name!r} have a baseline already; leave one of the two out")
        for option in ("reduction", "unpaired"):
            value = getattr(self.units, option)
            if value not in (Units.model_fields[option].default, getattr(self, option)):
                raise ValueError(f"units: {option} {value} of {self.units.name} is not read; give it to {self.name}")
        return self


@final
class StateBaseline(nn.Module):
    """(TokenBatch) -> [N, T], the numbers of units, and their `baseline`. `weight` [H], u, is float32."""

    def __init__(self, numbers: Callable[[TokenBatch], Tensor], hidden_size: int, limit: float) -> None:
        super().__init__()
        self.numbers = numbers
        self.limit = limit
        self.weight = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, tokens: TokenBatch) -> Tensor:
        """-> [N, T]."""
        return self.numbers(tokens)

    def baseline(self, tokens: TokenBatch) -> Tensor:
        """u . h_t, [N, T], 0 off the response, from last_states [N, T, H]."""
        assert tokens.last_states is not None
        values = tokens.at_tokens(tokens.last_states.detach()).to(self.weight.dtype) @ self.weight
        return values.new_zeros(tokens.mask.shape).masked_scatter(tokens.mask, values)


@hookimpl
def prefopt_units() -> list[type[Units]]:
    return concrete_classes(Units, sys.modules[__name__])  # type: ignore[type-abstract]
