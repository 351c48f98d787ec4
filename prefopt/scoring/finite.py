"""Losses, rewards and weights are finite, or an error names the first number that is not."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from prefopt.objective import ObjectiveOutput
from prefopt.tokens import PreferenceBatch


@final
class NonFiniteError(FloatingPointError):
    """A loss, reward or weight that is NaN or infinite. `row` is the number of the pair in its data set, None where the
    number is the whole batch's; `token_id` that of the response token, if it is one's."""

    row: int | None = None
    token_id: int | None = None


def all_finite(output: ObjectiveOutput) -> Tensor:
    """Whether loss, losses, rewards and weights are finite: bool [] on their device, from which nothing is read."""
    mask = output.tokens.mask
    weights = [values for values in (output.weights, output.divergence_weights) if values is not None]
    tensors = [output.loss, output.losses, output.rewards, *(torch.where(mask, values, 0) for values in weights)]
    return torch.isfinite(get_total_norm([values.detach() for values in tensors], math.inf))


def raise_non_finite(output: ObjectiveOutput, batch: PreferenceBatch) -> None:
    """Raise NonFiniteError, which names the first tensor, pair, response and token that are not finite; return where
    all are."""
    tokens = output.tokens
    suspects = {
        "ref_logps": tokens.ref_logps,
        "logps": tokens.logps,
        "divergence": tokens.divergence,
        "weights": output.weights,
        "divergence_weights": output.divergence_weights,
        "rewards": output.rewards,
        "losses": output.losses,
        "loss": output.loss.detach(),
    }
    if bool(all_finite(output)):
        return
    for name, values in suspects.items():
        if values is None:
            continue
        bad = ~torch.isfinite(values)
        indices = (bad & tokens.mask if values.ndim > 1 else bad).nonzero()
        if not len(indices):
            continue
        index = indices[0].tolist()
        error = NonFiniteError()
        subject = "the whole batch, its auxiliary loss included"
        if index:
            error.row = int(batch.rows[index[0] % batch.pairs])
            side = "chosen" if index[0] < batch.pairs else "rejected"
            subject = f"pair {error.row}" if name == "losses" else f"the {side} response of pair {error.row}"
        if values.ndim > 1:
            error.token_id = int(tokens.token_ids[*index])
            subject += f", at its token {index[1]} (id {error.token_id})"
        error.args = (
            f"`{name}` is {values[*index].item()} for {subject}; training needs finite numbers. A learning rate that "
            "is too high, half precision without headroom, or a token that a model excludes (a logit of -inf) are the "
            "usual causes.",
        )
        raise error
