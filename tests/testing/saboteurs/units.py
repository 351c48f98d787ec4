"""Units with one fault each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from prefopt.component import Component, Signal, Units
from prefopt.tokens import TokenBatch


def positions(tokens: TokenBatch) -> Tensor:
    return torch.arange(tokens.mask.shape[1], device=tokens.mask.device).expand_as(tokens.mask)


class Rounded(Units):
    """u_t = t, as a float.

    Source: these tests.
    """

    name: Literal["bad_dtype"] = "bad_dtype"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, positions(tokens), -1).to(tokens.logps.dtype)


class OnPadding(Units):
    """u_t = t, and 0 off the response.

    Source: these tests.
    """

    name: Literal["bad_padding_units"] = "bad_padding_units"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, positions(tokens), 0)


class Apart(Units):
    """u_t = 0 in the chosen response, 1 in the rejected one.

    Source: these tests.
    """

    name: Literal["bad_partners"] = "bad_partners"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, (~tokens.is_chosen).long()[:, None], -1)


class Baseline(nn.Module):
    """Units of tokens with a baseline b = a x, a learned, that does right."""

    limit = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, positions(tokens), -1)

    def read(self, tokens: TokenBatch) -> Tensor:
        """x, [N, T]."""
        return torch.where(tokens.mask[..., None], tokens.last_states.detach(), 0).sum(-1)

    def baseline(self, tokens: TokenBatch) -> Tensor:
        return self.slope * self.read(tokens)


class OnPaddingBaseline(Baseline):
    def baseline(self, tokens: TokenBatch) -> Tensor:
        return super().baseline(tokens) + torch.where(tokens.mask, 0, self.slope)


class BatchBaseline(Baseline):
    def read(self, tokens: TokenBatch) -> Tensor:
        states = super().read(tokens)
        return torch.where(tokens.mask, states - states.mean(), 0)


class LeakingBaseline(Baseline):
    def read(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask[..., None], tokens.last_states, 0).sum(-1)


class WithBaseline(Units):
    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({Signal.LAST_STATES})

    @property
    def has_baseline(self) -> bool:
        return True

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, positions(tokens), -1)


class BaselineUnsaid(WithBaseline):
    """b = a sum h, which is not declared.

    Source: these tests.
    """

    name: Literal["bad_baseline_unsaid"] = "bad_baseline_unsaid"

    @property
    def has_baseline(self) -> bool:
        return False

    def build(self, *, num_layers: int, hidden_size: int) -> Baseline:
        return Baseline()


class BaselineOnPadding(WithBaseline):
    """b = a sum h, and a off the response.

    Source: these tests.
    """

    name: Literal["bad_baseline_padding"] = "bad_baseline_padding"

    def build(self, *, num_layers: int, hidden_size: int) -> Baseline:
        return OnPaddingBaseline()


class BaselineOfBatch(WithBaseline):
    """b = a (sum h - its mean over the batch).

    Source: these tests.
    """

    name: Literal["bad_baseline_batch"] = "bad_baseline_batch"

    def build(self, *, num_layers: int, hidden_size: int) -> Baseline:
        return BatchBaseline()


class BaselineWithGradient(WithBaseline):
    """b = a sum h, with gradient to h.

    Source: these tests.
    """

    name: Literal["bad_baseline_gradient"] = "bad_baseline_gradient"

    def build(self, *, num_layers: int, hidden_size: int) -> Baseline:
        return LeakingBaseline()


SABOTEURS: dict[str, type[Component]] = {
    "unit_numbers_are_int64": Rounded,
    "units_are_of_response_tokens": OnPadding,
    "some_units_have_partners": Apart,
    "baselines_are_declared": BaselineUnsaid,
    "baselines_are_of_response_tokens": BaselineOnPadding,
    "baselines_read_their_response_alone": BaselineOfBatch,
    "baselines_pass_no_gradient": BaselineWithGradient,
}
