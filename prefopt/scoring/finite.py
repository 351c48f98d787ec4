"""Losses are finite, or an error names the first number that is not."""

from __future__ import annotations

from typing import final

import torch

from prefopt.objective import ObjectiveOutput
from prefopt.tokens import PreferenceBatch


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
    suspects = {
        "ref_logps": tokens.ref_logps,
        "logps": tokens.logps,
        "divergence": tokens.divergence,
        "weights": output.weights,
        "divergence_weights": output.divergence_weights,
        "rewards": output.rewards,
        "losses": output.losses,
    }
    for name, values in suspects.items():
        if values is None:
            continue
        bad = ~torch.isfinite(values)
        index = (bad & tokens.mask if values.ndim > 1 else bad).nonzero()[:1].flatten().tolist()
        if index:
            token = f", at its token {index[1]} (id {int(tokens.token_ids[*index])})" if values.ndim > 1 else ""
            raise NonFiniteError(name, values[*index].item(), batch, index[0], token)
