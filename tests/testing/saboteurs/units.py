"""Units with one fault each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prefopt.component import Component, Units
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


SABOTEURS: dict[str, type[Component]] = {
    "unit_numbers_are_int64": Rounded,
    "units_are_of_response_tokens": OnPadding,
    "some_units_have_partners": Apart,
}
