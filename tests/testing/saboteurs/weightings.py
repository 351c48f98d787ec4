"""Weightings with one fault each."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ConfigDict, field_serializer
from torch import Tensor, nn

from prefopt.component import Component, Signal, TokenWeighting
from prefopt.tokens import TokenBatch, masked_mean

STATES = frozenset({Signal.REF_HIDDEN_STATES})
ACTIVATIONS = frozenset({Signal.REF_ACTIVATIONS})


def level(tokens: TokenBatch, value: float | Tensor) -> Tensor:
    """That weight on every response token."""
    return torch.where(tokens.mask, torch.as_tensor(value, dtype=tokens.logps.dtype), 0)


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


class SampleDeviation(TokenWeighting):
    """w_t = 1 / (1 + s), s the standard deviation with n - 1.

    Source: these tests.
    """

    name: Literal["bad_one_token_responses_are_finite"] = "bad_one_token_responses_are_finite"

    @property
    def requires(self) -> frozenset[Signal]:
        return ACTIVATIONS

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset({"mlp"})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        values = tokens.ref_activations[0]
        centred = values - masked_mean(values, tokens.mask)[:, None]
        squares = torch.where(tokens.mask, centred.square(), 0).sum(-1) / (tokens.mask.sum(-1) - 1)
        return level(tokens, 1 / (1 + squares.sqrt())[:, None])


class Writing(TokenWeighting):
    """w_t = 1.

    Source: these tests.
    """

    name: Literal["bad_inputs_are_not_modified"] = "bad_inputs_are_not_modified"

    @property
    def requires(self) -> frozenset[Signal]:
        return ACTIVATIONS

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset({"mlp"})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        tokens.ref_activations.zero_()
        return level(tokens, 1.0)


class Noisy(TokenWeighting):
    """w_t = 1 + noise.

    Source: these tests.
    """

    name: Literal["bad_evaluation_is_deterministic"] = "bad_evaluation_is_deterministic"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1 + 1e-12 * torch.rand_like(tokens.logps))


class Cancelling(TokenWeighting):
    """w_t = (1e6 + sigmoid(a)) - 1e6.

    Source: these tests.
    """

    name: Literal["bad_single_precision_agrees_with_double"] = "bad_single_precision_agrees_with_double"

    @property
    def requires(self) -> frozenset[Signal]:
        return ACTIVATIONS

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset({"mlp"})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        return level(tokens, (1e6 + tokens.ref_activations[0].sigmoid()) - 1e6)


class Breaking(TokenWeighting):
    """w_t = 1, or 2 where nothing is padded.

    Source: these tests.
    """

    name: Literal["bad_compiles_whole"] = "bad_compiles_whole"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 2.0 if bool(tokens.mask.all()) else 1.0)


class ByWidth(TokenWeighting):
    """w_t = 1 / T, T the padded width.

    Source: these tests.
    """

    name: Literal["bad_padding_changes_nothing"] = "bad_padding_changes_nothing"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1 / tokens.mask.shape[1])


class Leaking(TokenWeighting):
    """w_t = 1 + the mean over the batch of sigmoid(a).

    Source: these tests.
    """

    name: Literal["bad_pairs_do_not_leak"] = "bad_pairs_do_not_leak"

    @property
    def requires(self) -> frozenset[Signal]:
        return ACTIVATIONS

    @property
    def activation_kinds(self) -> frozenset[str]:
        return frozenset({"mlp"})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        each = masked_mean(tokens.ref_activations[0].sigmoid(), tokens.mask)
        return level(tokens, 1 + each.mean())


class ByBatchSize(TokenWeighting):
    """w_t = 1 / B.

    Source: these tests.
    """

    name: Literal["bad_cutting_the_batch_changes_nothing"] = "bad_cutting_the_batch_changes_nothing"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, 1 / tokens.pairs)


class Undeclared(TokenWeighting):
    """w_t = sigmoid(a).

    Source: these tests.
    """

    name: Literal["bad_reads_only_what_it_declares"] = "bad_reads_only_what_it_declares"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_activations is not None
        return level(tokens, tokens.ref_activations[0].sigmoid())


class DeadModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(()))

    def forward(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, self.theta.relu())


class Dead(TokenWeighting):
    """w_t = relu(theta), theta from N(0, 1).

    Source: these tests.
    """

    name: Literal["bad_no_dead_start"] = "bad_no_dead_start"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return DeadModule()


class CutOffModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, self.theta.detach().exp())


class CutOff(TokenWeighting):
    """w_t = exp(theta), theta without gradient.

    Source: these tests.
    """

    name: Literal["bad_learned_parameters_learn"] = "bad_learned_parameters_learn"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return CutOffModule()


class ForgetfulModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = torch.rand(()).item()

    def forward(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, self.value)


class Forgetful(TokenWeighting):
    """w_t = a random number, kept in an attribute.

    Source: these tests.
    """

    name: Literal["bad_state_dict_round_trips"] = "bad_state_dict_round_trips"

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return ForgetfulModule()


class Negative(TokenWeighting):
    """w_t = -1.

    Source: these tests.
    """

    name: Literal["bad_weights_are_not_negative"] = "bad_weights_are_not_negative"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, -1.0)


class Overflowing(TokenWeighting):
    """w_t = 1, on padding too.

    Source: these tests.
    """

    name: Literal["bad_weights_are_zero_off_the_response"] = "bad_weights_are_zero_off_the_response"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.ones_like(tokens.logps)


class Standardised(TokenWeighting):
    """w_t = sigmoid((h_1 - mean h) / std h).

    Source: these tests.
    """

    name: Literal["bad_constant_signals_give_finite_weights"] = "bad_constant_signals_give_finite_weights"

    @property
    def requires(self) -> frozenset[Signal]:
        return STATES

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_hidden_states is not None
        states = tokens.ref_hidden_states[0].to(tokens.logps.dtype)
        standardised = (states - states.mean(-1, keepdim=True)) / states.std(-1, keepdim=True)
        return level(tokens, standardised[..., 0].sigmoid())


class Attached(TokenWeighting):
    """w_t = pi(y_t).

    Source: these tests.
    """

    name: Literal["bad_no_gradient_reaches_the_policy"] = "bad_no_gradient_reaches_the_policy"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return level(tokens, tokens.logps.exp())


class OnePrecision(TokenWeighting):
    """w_t = sigmoid(sum h).

    Source: these tests.
    """

    name: Literal["bad_states_may_be_in_half_precision"] = "bad_states_may_be_in_half_precision"

    @property
    def requires(self) -> frozenset[Signal]:
        return STATES

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_hidden_states is not None
        states = tokens.ref_hidden_states[0]
        return level(tokens, (states @ torch.ones(states.shape[-1], dtype=tokens.logps.dtype)).sigmoid())


class WhereOutsideModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.ones(5))

    def forward(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_hidden_states is not None
        states = tokens.ref_hidden_states[0].to(self.direction.dtype)
        return level(tokens, (states @ self.direction).sigmoid())


class WhereOutside(TokenWeighting):
    """w_t = sigmoid(u h), in the padding too, where it is thrown away.

    Source: these tests.
    """

    name: Literal["bad_gradients_are_finite"] = "bad_gradients_are_finite"

    @property
    def requires(self) -> frozenset[Signal]:
        return STATES

    def build(self, *, num_layers: int, hidden_size: int) -> nn.Module:
        return WhereOutsideModule()


class ChargingModule(nn.Module):
    def forward(self, tokens: TokenBatch) -> Tensor:
        return self.charged(tokens)[0]

    def charged(self, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        return level(tokens, torch.ones_like(tokens.logps)), torch.full_like(tokens.logps, 0.1)


class Overcharging(TokenWeighting):
    """w_t = 1, each token charged 0.1, and each position of padding.

    Source: these tests.
    """

    name: Literal["bad_charges_are_of_response_tokens"] = "bad_charges_are_of_response_tokens"

    def build(self, *, num_layers: int, hidden_size: int) -> ChargingModule:
        return ChargingModule()


SABOTEURS: dict[str, type[Component]] = {
    "config_round_trips": Rounded,
    "unknown_fields_are_refused": Lenient,
    "is_a_value": Changeable,
    "name_is_a_literal": AnyName,
    "is_registered": Unregistered,
    "docstring_states_equation_and_source": Undocumented,
    "pickles": WithLambda,
    "deep_copies": Remembering,
    "one_token_responses_are_finite": SampleDeviation,
    "inputs_are_not_modified": Writing,
    "evaluation_is_deterministic": Noisy,
    "single_precision_agrees_with_double": Cancelling,
    "compiles_whole": Breaking,
    "gradients_are_finite": WhereOutside,
    "padding_changes_nothing": ByWidth,
    "pairs_do_not_leak": Leaking,
    "cutting_the_batch_changes_nothing": ByBatchSize,
    "reads_only_what_it_declares": Undeclared,
    "no_dead_start": Dead,
    "learned_parameters_learn": CutOff,
    "state_dict_round_trips": Forgetful,
    "weights_are_not_negative": Negative,
    "weights_are_zero_off_the_response": Overflowing,
    "constant_signals_give_finite_weights": Standardised,
    "no_gradient_reaches_the_policy": Attached,
    "states_may_be_in_half_precision": OnePrecision,
    "charges_are_of_response_tokens": Overcharging,
}
