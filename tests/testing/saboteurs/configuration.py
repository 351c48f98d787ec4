"""Weightings with one fault each as a configuration or in what they build."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, field_serializer
from torch import Tensor, nn

from prefopt.component import Component, TokenWeighting
from prefopt.tokens import TokenBatch
from tests.testing.saboteurs.level import level


class Rounded(TokenWeighting):
    """w_t = rate, written with one digit.

    Source: these tests.
    """

    name: Literal["bad_config_round_trips"] = "bad_config_round_trips"
    rate: float = 0.123

    @field_serializer("rate")
    def _short(self, rate: float) -> float:
        return round(rate, 1)

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, self.rate)


class Lenient(TokenWeighting):
    """w_t = 1.

    Source: these tests.
    """

    name: Literal["bad_unknown_fields_are_refused"] = "bad_unknown_fields_are_refused"
    model_config = ConfigDict(extra="ignore")

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1.0)


class Changeable(TokenWeighting):
    """w_t = 1.

    Source: these tests.
    """

    name: Literal["bad_is_a_value"] = "bad_is_a_value"
    model_config = ConfigDict(frozen=False)

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1.0)


class AnyName(TokenWeighting):
    """w_t = 1.

    Source: these tests.
    """

    name: str = "bad_name_is_a_literal"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1.0)


class Unregistered(TokenWeighting):
    """w_t = 1.

    Source: these tests.
    """

    name: Literal["bad_is_registered"] = "bad_is_registered"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1.0)


class Undocumented(TokenWeighting):
    """Every token counts."""

    name: Literal["bad_docstring_states_equation_and_source"] = "bad_docstring_states_equation_and_source"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1.0)


class WithLambdaModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.function = lambda tokens: level(tokens, 1.0)

    def forward(self, tokens: TokenBatch) -> Tensor:
        return self.function(tokens)


class WithLambda(TokenWeighting):
    """w_t = 1.

    Source: these tests.
    """

    name: Literal["bad_pickles"] = "bad_pickles"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return WithLambdaModule()


class RememberingModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def forward(self, tokens: TokenBatch) -> Tensor:
        self.last = 2 * tokens.logps
        return level(tokens, 1.0)


class Remembering(TokenWeighting):
    """w_t = 1, and what the policy said last is kept.

    Source: these tests.
    """

    name: Literal["bad_deep_copies"] = "bad_deep_copies"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return RememberingModule()


SABOTEURS: dict[str, type[Component]] = {
    "config_round_trips": Rounded,
    "unknown_fields_are_refused": Lenient,
    "is_a_value": Changeable,
    "name_is_a_literal": AnyName,
    "is_registered": Unregistered,
    "docstring_states_equation_and_source": Undocumented,
    "pickles": WithLambda,
    "deep_copies": Remembering,
}
