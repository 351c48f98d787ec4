"""What is checked while scoring: that the gathered head agrees with the plain call, and that every number is finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prefopt.objective import ObjectiveOutput
from prefopt.scoring.backbone import causal_lm, run
from prefopt.scoring.head import Head
from prefopt.scoring.layout import Layout
from prefopt.scoring.statistics import dense_statistics, token_statistics
from prefopt.tokens import PreferenceBatch

__all__ = ["disagreement", "require_finite"]

_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.1
"""Largest difference of log-probabilities, in nats, that rounding explains at each precision."""


def disagreement(model: nn.Module, layout: Layout) -> str | None:
    """How the gathered head's log-probabilities differ from those of the plain model call, or None where they agree.

    Raises UnsupportedHeadError where the head cannot be applied on its own.
    """
    head = Head.of(causal_lm(model))
    gathered = token_statistics(run(model, layout, plain=False).final, head, None, None, layout.labels).logps
    plain = dense_statistics(run(model, layout, plain=True).final, None, layout.labels).logps
    tolerance = _TOLERANCES.get(head.weight.dtype, _HALF_TOLERANCE)
    if torch.is_autocast_enabled(plain.device.type):
        tolerance = _HALF_TOLERANCE
    agree = torch.isclose(gathered, plain, rtol=tolerance, atol=tolerance, equal_nan=True)
    if bool(agree.all()):
        return None
    worst = (gathered - plain).abs()[~agree].max().item()
    return (
        f"log-probabilities from {type(causal_lm(model)).__name__}'s hidden states and head differ from those of its "
        f"own "
        f"call by up to {worst:.2g} nats"
    )


def require_finite(output: ObjectiveOutput, batch: PreferenceBatch) -> None:
    """Raise FloatingPointError naming the first tensor, the pair and the response that are not finite, if the loss is
    not."""
    if bool(torch.isfinite(output.losses).all()):
        return
    tokens = output.tokens
    suspects = {
        "ref_logps": tokens.ref_logps,
        "logps": tokens.logps,
        "divergence": tokens.divergence,
        "weights": output.weights,
        "divergence_weights": output.divergence_weights,
    }
    for name, values in suspects.items():
        if values is None:
            continue
        bad = tokens.mask & ~torch.isfinite(values)
        if bool(bad.any()):
            row, step = (int(index) for index in bad.nonzero()[0])
            where = f"{_response(row, batch)}, response token {step} (id {int(tokens.token_ids[row, step])})"
            raise FloatingPointError(_message(name, values[row, step], where))
    for name, values in (("rewards", output.rewards), ("losses", output.losses)):
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise FloatingPointError(_message(name, values[row], _response(row, batch)))


def _response(row: int, batch: PreferenceBatch) -> str:
    pair = row % batch.pairs
    return f"pair {int(batch.rows[pair])}, {'chosen' if row < batch.pairs else 'rejected'} response"


def _message(name: str, value: Tensor, where: str) -> str:
    return (
        f"`{name}` is {value.item()} for {where}; the loss is not finite. Training stopped. A learning rate that is "
        f"too high, "
        f"half precision without headroom, or a token that a model excludes (a logit of -inf) are the usual causes."
    )
