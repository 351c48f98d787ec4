"""What components are tried on: small batches, made from logits, with rubbish wherever there is padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from math import inf, nan
from typing import Any, Self, final

import torch
from torch import Tensor

from prefopt.columns import Column, PairColumn, TokenColumn
from prefopt.component import Component, Divergence, SampledDivergence, Signal
from prefopt.divergences import ForwardKL
from prefopt.signals import SIGNALS
from prefopt.tokens import TokenBatch

LAYERS, HIDDEN, VOCABULARY, WIDTH = 3, 5, 7, 8
LENGTHS = (4, 2, 6, 3, 5, 2)

_KINDS = ("mlp", "attn", "resid", "logits")


@final
@dataclass(frozen=True, eq=False)
class Case:
    """What two models say of N responses, and what components of every kind are given of it.

    rows     N first: logits, ref_logits [N, T, V], token_ids [N, T], rewards, weights, divergence_weights [N, T],
             response_rewards [N], signals that do not follow from the logits, and token columns [N, T]
    layers   N second: the signals that are stacks, such as states [L, N, T, H] and activations [S, N, T]
    pairs    B first: columns of pairs
    words    says in words what the case is
    """

    words: str
    lengths: tuple[int, ...]
    activation_kinds: tuple[str, ...]
    rows: Mapping[str, Tensor]
    layers: Mapping[str, Tensor]
    pairs: Mapping[str, Tensor]
    columns: tuple[str, ...]

    @property
    def number(self) -> int:
        """B."""
        return len(self.lengths) // 2

    @cached_property
    def mask(self) -> Tensor:
        """[N, T]."""
        return torch.arange(self.rows["weights"].shape[1]) < torch.tensor(self.lengths)[:, None]

    @property
    def is_chosen(self) -> Tensor:
        """[N]."""
        return torch.arange(2 * self.number) < self.number

    @property
    def dtype(self) -> torch.dtype:
        """The precision of what the policy says."""
        return self.rows["logits"].dtype

    def padded(self, values: Tensor, *, axis: int = 0) -> Tensor:
        """The values, whose row axis is that one, with rubbish off the responses."""
        mask = self.mask.view(*(1,) * axis, *self.mask.shape, *(1,) * (values.ndim - axis - 2))
        return torch.where(mask, values, _rubbish(values))

    def distributions(self, *, sampled: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probabilities of policy and reference, [N, T, V], or [N, T] of the responses' tokens."""
        both = [self.rows[name].log_softmax(-1) for name in ("logits", "ref_logits")]
        if sampled:
            both = [logps.gather(-1, self.rows["token_ids"][..., None])[..., 0] for logps in both]
        return both[0], both[1]

    def tokens(self, measure: Divergence | None = None, *, withheld: Collection[str] = ()) -> TokenBatch:
        """As a TokenBatch, with the forward KL where no other divergence is asked for; without the fields withheld."""
        measure = ForwardKL() if measure is None else measure
        logps, ref_logps = self.distributions(sampled=True)
        full, ref_full = self.distributions()
        of_distributions = {
            signal.value: self.padded(spec.of_distribution((ref_full if spec.of_reference else full).detach()))
            for signal, spec in SIGNALS.items()
            if spec.of_distribution is not None
        }
        fields = {
            "logps": self.padded(logps),
            "ref_logps": self.padded(ref_logps),
            "divergence": self.padded(measure(*self.distributions(sampled=isinstance(measure, SampledDivergence)))),
            **of_distributions,
            **{signal.value: self.padded(self.rows[signal]) for signal in _drawn() if signal in self.rows},
            **{name: self.padded(values, axis=1) for name, values in self.layers.items()},
        }
        columns = {
            name: self.pairs[name] if name in self.pairs else self.padded(self.rows[name]) for name in self.columns
        }
        return TokenBatch(
            mask=self.mask,
            token_ids=torch.where(self.mask, self.rows["token_ids"], -(10**9)),
            activation_kinds=() if Signal.REF_ACTIVATIONS in withheld else self.activation_kinds,
            columns=columns,
            **{name: None if name in withheld else value for name, value in fields.items()},  # type: ignore[arg-type]
        )

    def but(self, words: str, **rows: Tensor) -> Self:
        """The same case with some of its rows replaced, and those words added."""
        return dataclasses.replace(self, words=f"{self.words}, {words}", rows={**self.rows, **rows})

    def with_gradient(self, side: str = "logits") -> tuple[Self, Tensor]:
        """The same case with one of its rows a leaf that takes gradient, and that leaf."""
        leaf = self.rows[side].clone().requires_grad_()
        return self.but("policy as trained", **{side: leaf}), leaf

    def mixed(self, other: Self, rows: Tensor) -> Self:
        """With those rows, [N] bool, from another case of the same lengths; with the columns of a pair where the chosen
        row is among them."""

        def mix(values: Tensor, theirs: Tensor, axis: int) -> Tensor:
            picked = rows[: values.shape[axis]].view(*(1,) * axis, -1, *(1,) * (values.ndim - axis - 1))
            return torch.where(picked, theirs, values)

        numbers = ", ".join(str(int(row) + 1) for row in rows.nonzero())
        return self._transformed(f"responses {numbers} of it from seed 1", mix, other)

    def _transformed(self, words: str, change: Callable[..., Tensor], *others: Case, **fields: Any) -> Self:
        """With every tensor changed: `change` takes it, those of the same name in `others`, and its axis of responses
        or pairs."""
        changed: dict[str, Any] = {
            group: {
                name: change(value, *(getattr(other, group)[name] for other in others), axis)
                for name, value in getattr(self, group).items()
            }
            for group, axis in (("rows", 0), ("layers", 1), ("pairs", 0))
        }
        return dataclasses.replace(self, words=f"{self.words}, {words}", **changed, **fields)

    def with_sites_of(self, kinds: Collection[str]) -> Self:
        """With the activation sites of those kinds only."""
        kept = [index for index, kind in enumerate(self.activation_kinds) if kind in kinds]
        return dataclasses.replace(
            self,
            words=f"{self.words}, activation sites of kinds {', '.join(sorted(kinds)) or 'none'}",
            activation_kinds=tuple(self.activation_kinds[index] for index in kept),
            layers={**self.layers, Signal.REF_ACTIVATIONS: self.layers[Signal.REF_ACTIVATIONS][kept]},
        )

    def of_pairs(self, pairs: Sequence[int]) -> Self:
        """Only those pairs, in that order."""
        rows = torch.tensor([*pairs, *(pair + self.number for pair in pairs)])

        def pick(values: Tensor, axis: int) -> Tensor:
            return values.index_select(axis, rows if values.shape[axis] == 2 * self.number else rows[: len(pairs)])

        words = f"pairs {', '.join(str(pair + 1) for pair in pairs)} of it"
        return self._transformed(words, pick, lengths=tuple(self.lengths[row] for row in rows))

    def widened(self, more: int) -> Self:
        """With more columns of padding."""

        def wider(values: Tensor, axis: int) -> Tensor:
            if values.ndim <= axis + 1:  # a number for each response or pair
                return values
            shape = list(values.shape)
            shape[axis + 1] = more
            return torch.cat([values, values.new_zeros(shape)], dim=axis + 1)

        return self._transformed(f"{more} more columns of padding", wider)

    def to(self, dtype: torch.dtype) -> Self:
        """The same numbers in another precision."""

        def cast(values: Tensor, axis: int) -> Tensor:
            return values.to(dtype) if values.is_floating_point() else values

        return self._transformed(f"in {dtype}", cast)

    def with_states_in(self, dtype: torch.dtype) -> Self:
        """The reference's states in the precision of a model that runs in it; all else as it was."""
        states = {
            signal.value: self.layers[signal].to(dtype) for signal, spec in SIGNALS.items() if spec.layers is not None
        }
        return dataclasses.replace(self, words=f"{self.words}, states in {dtype}", layers={**self.layers, **states})


def case_for(
    component: Component, seed: int = 0, lengths: tuple[int, ...] = LENGTHS, *, constant: bool = False
) -> Case:
    """A case in float64 that has every signal, and every column that the component declares.

    Where it is constant, all tokens look alike to policy and reference.
    """
    draw = torch.Generator().manual_seed(seed)
    size = (len(lengths), WIDTH)
    kinds = (*_KINDS, *sorted(component.activation_kinds), *_KINDS)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=draw, dtype=torch.float64)
        return torch.ones_like(values) if constant else values

    mask = torch.arange(WIDTH) < torch.tensor(lengths)[:, None]
    rows = {
        "logits": 2 * normal(*size, VOCABULARY),
        "ref_logits": 2 * normal(*size, VOCABULARY),
        "token_ids": torch.randint(VOCABULARY, size, generator=draw),
        "rewards": normal(*size),
        "response_rewards": normal(size[0]),
        "weights": torch.where(mask, normal(*size).abs(), 0),
        "divergence_weights": torch.where(mask, normal(*size).abs(), 0),
    }
    sizes = {"1": 1, "L": LAYERS, "S": len(kinds), "N": size[0], "T": size[1], "H": HIDDEN}
    drawn = {signal: normal(*(sizes[axis] for axis in SIGNALS[signal].shape)) for signal in _drawn()}
    drawn = {signal: values.abs() if SIGNALS[signal].input_gradient else values for signal, values in drawn.items()}
    layers = {signal.value: values for signal, values in drawn.items() if SIGNALS[signal].row_axis}
    rows |= {signal.value: values for signal, values in drawn.items() if signal not in layers}
    columns = sorted(component.columns, key=lambda column: column.name)
    of_pairs = [column for column in columns if isinstance(column, PairColumn)]
    pairs = _column_values(of_pairs, lambda: normal(size[0] // 2))
    of_tokens = [column for column in columns if column not in of_pairs]
    rows |= _column_values(of_tokens, lambda: normal(*size), close=lambda above: above if constant else _closer(above))
    words = f"{len(lengths)} responses of {', '.join(map(str, lengths))} tokens (chosen first), seed {seed}"
    return Case(
        words=f"{words}, nan, infinities and 1e30 off the responses{', all tokens alike' if constant else ''}",
        lengths=lengths,
        activation_kinds=kinds,
        rows=rows,
        layers=layers,
        pairs=pairs,
        columns=tuple(column.name for column in columns),
    )


def cases(component: Component, number: int = 5) -> Iterator[Case]:
    """The cases on which a property is tried, of that many seeds."""
    return (case_for(component, seed) for seed in range(number))


def _drawn() -> list[Signal]:
    """The signals that do not follow from the logits."""
    followed = (Signal.REF_LOGPS, Signal.DIVERGENCE)
    return [signal for signal, spec in SIGNALS.items() if spec.of_distribution is None and signal not in followed]


def _column_values(
    columns: Sequence[Column], numbers: Callable[[], Tensor], close: Callable[[Tensor], Tensor] = lambda above: above
) -> dict[str, Tensor]:
    """Numbers as the columns ask for them: clearly above what they must not be below, or as `close` moves them."""
    values = {column.name: numbers() for column in columns}
    above = {column.name: values[column.name].abs() + 0.5 for column in columns}
    floors = {column.name: column.at_least for column in columns if column.at_least is not None}
    for name, floor in floors.items():
        if not isinstance(floor, str):
            values[name] = floor + close(above[name])
    for name, floor in floors.items():
        if isinstance(floor, str) and floor in values:
            values[name] = values[floor] + above[name]
    for column in columns:
        if isinstance(column, TokenColumn) and column.whole:
            steps = (1.5 * above[column.name] - 0.75).floor()
            most = inf if column.at_most is None else column.at_most
            values[column.name] = (steps + (column.at_least or 0)).clamp(max=most)
    return values


def _closer(above: Tensor) -> Tensor:
    """Of numbers above 0, [N, T], every third put at 0 and every third near it."""
    phase = torch.arange(above.shape[1]) % 3
    return torch.where(phase == 1, 0, torch.where(phase == 2, 1e-3 * above, above))


def _rubbish(like: Tensor) -> Tensor:
    return like.new_tensor(list(islice(cycle((nan, inf, -inf, 1e30, -1e30)), like.numel()))).view_as(like)
