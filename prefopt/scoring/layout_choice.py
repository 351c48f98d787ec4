"""How a model's pairs are laid out: decided with the first batch, by comparison with the plain call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, final

import torch
from torch import nn

from prefopt.scoring.checks import disagreement
from prefopt.scoring.forward import causal_lm
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.limits import Limits, layout_of
from prefopt.scoring.rows.packing import two_in_a_row
from prefopt.tokens import PreferenceBatch

__all__ = ["LayoutChoice", "Role"]

_DECIDE = 4
"""Pairs of the first batch that decide."""


@final
class Role(NamedTuple):
    """A model, what it is here, and within what it is that: a policy with its adapter off is its own reference."""

    name: str
    model: nn.Module
    context: AbstractContextManager[Any]


@final
class LayoutChoice:
    """plain   whether the models are called as anyone would call them; None until a batch has decided
    shares  whether pairs may share rows, where that is less work
    """

    def __init__(self) -> None:
        self.plain: bool | None = None
        self.shares = False
        self._limits = Limits(reach=0, room=0)

    def of(self, batch: PreferenceBatch, hidden_size: int) -> Layout:
        """The rows to run for this batch: shared ones where that is right and less work, otherwise two a pair."""
        return layout_of(batch, hidden_size, self._limits) if self.shares else Layout.of(batch)

    def prove(self, batch: PreferenceBatch, roles: Sequence[Role], *, share: bool) -> None:
        """Decide what agrees with the plain call in all models, and say so where something does not. `share`: whether
        shared rows are asked for at all.

        Of a large batch some pairs decide, from the shortest to the longest: the plain call has all logits at once. How
        many passes this takes depends on the models alone and not on the batch, so that processes which wait for
        each other in every pass may each have a batch of their own.
        """
        batch = _some(batch)
        limits = Limits.of(causal_lm(role.model) for role in roles)
        places = two_in_a_row(batch.lengths.tolist(), limits.room)
        self._limits = limits if any(places.starts) else limits._replace(room=0)
        rows, shared = Layout.of(batch), Layout.shared(batch, places) if share else None
        refusals = []
        for name, model, context in roles:
            with context:
                found = disagreement(model, rows, shared)
            if found.head:
                _warn(f"{name}: {found.head}. Calling the models plainly", "slower and with whole logits")
                self.plain = True
                return
            if found.sharing:
                refusals.append(f"{name}: {found.sharing}")
        self.plain, self.shares = False, shared is not None and not refusals
        if refusals:
            _warn(f"{refusals[0]}. Giving each response a row of its own", "computing every prompt twice")


def _some(batch: PreferenceBatch) -> PreferenceBatch:
    """At most so many pairs as decide, evenly spaced by length, the shortest and the longest among them."""
    if batch.pairs <= _DECIDE:
        return batch
    places = torch.linspace(0, batch.pairs - 1, _DECIDE, device=batch.rows.device).round().long()
    kept = batch.lengths.argsort(stable=True)[places].sort().values
    return PreferenceBatch.from_mapping({name: values[kept] for name, values in batch.as_mapping().items()})


def _warn(finding: str, price: str) -> None:
    warnings.warn(f"{finding} from now on: right, but {price}.", stacklevel=5)
