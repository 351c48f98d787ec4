"""Losses are finite, or an error names the first number that is not."""

from __future__ import annotations

from typing import final

import torch

from prefopt.objective import ObjectiveOutput
from prefopt.tokens import PreferenceBatch

__all__ = ["NonFiniteError", "is_finite", "require_finite"]


@final
class NonFiniteError(FloatingPointError):
    """A loss that is NaN or infinite. `row` is the number of the pair in its data set."""

    def __init__(self, name: str, value: float, batch: PreferenceBatch, response: int, token: str = "") -> None:
        pair = response % batch.pairs
        self.row = int(batch.rows[pair])
        super().__init__(
            f"`{name}` is {value} for the {'chosen' if response < batch.pairs else 'rejected'} response of pair "
            f"{self.row}{token}; the loss is not finite. A learning rate that is too high, half precision without "
            f"headroom, or a token that a model excludes (a logit of -inf) are the usual causes."
        )


def is_finite(output: ObjectiveOutput) -> bool:
    """Whether all losses are finite."""
    return bool(torch.isfinite(output.losses).all())


def require_finite(output: ObjectiveOutput, batch: PreferenceBatch) -> None:
    """Raise NonFiniteError unless all losses are finite: it names the first tensor, pair, response and token that are
    not."""
    if is_finite(output):
        return
    tokens = output.tokens
    by_token = {
        "ref_logps": tokens.ref_logps,
        "logps": tokens.logps,
        "divergence": tokens.divergence,
        "weights": output.weights,
        "divergence_weights": output.divergence_weights,
    }
    for name, values in by_token.items():
        if values is None:
            continue
        bad = tokens.mask & ~torch.isfinite(values)
        if bool(bad.any()):
            row, step = (int(index) for index in bad.nonzero()[0])
            token = f", at its token {step} (id {int(tokens.token_ids[row, step])})"
            raise NonFiniteError(name, values[row, step].item(), batch, row, token)
    for name, values in (("rewards", output.rewards), ("losses", output.losses)):
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise NonFiniteError(name, values[row].item(), batch, row)
