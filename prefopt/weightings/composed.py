"""Weightings made of weightings."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

from pydantic import SerializeAsAny

from prefopt.columns import Column
from prefopt.component import Signal, TokenWeighting


class ComposedWeighting(TokenWeighting, ABC):
    """A weighting that holds another, `weighting`, and needs what that needs."""

    weighting: SerializeAsAny[TokenWeighting]

    @property
    def requires(self) -> frozenset[Signal]:
        return self.weighting.requires

    @property
    def activation_kinds(self) -> frozenset[str]:
        return self.weighting.activation_kinds

    @property
    def columns(self) -> frozenset[Column]:
        return self.weighting.columns

    @property
    def expected_failures(self) -> Mapping[str, str]:
        return self.weighting.expected_failures
