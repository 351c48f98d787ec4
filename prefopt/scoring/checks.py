"""What is checked while scoring: that the gathered head agrees with the plain call, and that every number is finite."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from prefopt.objective import ObjectiveOutput
from prefopt.scoring.backbone import causal_lm, run
from prefopt.scoring.head import Head
from prefopt.scoring.layout import Layout
from prefopt.scoring.statistics import dense_statistics, token_statistics
from prefopt.tokens import PreferenceBatch

__all__ = ["NonFiniteError", "disagreement", "require_finite"]


@final
class NonFiniteError(FloatingPointError):
    """A loss that is NaN or infinite. `row` is the number of the pair in its data set."""

    def __init__(self, name: str, value: float, batch: PreferenceBatch, response: int, token: str = "") -> None:
        pair = response % batch.pairs
        self.row = int(batch.rows[pair])
        super().__init__(
            f"`{name}` is {value} for the {'chosen' if response < batch.pairs else 'rejected'} response of pair "
            f"{self.row}"
            f"{token}; the loss is not finite. A learning rate that is too high, half precision without headroom, or a "
            f"token that a model excludes (a logit of -inf) are the usual causes."
        )


_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.1
"""Largest difference of log-probabilities, in nats, that rounding explains at each precision."""


def disagreement(model: nn.Module, layout: Layout) -> str | None:
    """How the gathered head's log-probabilities differ from those of the plain model call, or None where they agree.

    Raises UnsupportedHeadError where the head cannot be applied on its own.
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "its adapter acts before the first token, where only the model's own call takes it in"
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
            token = f", at its token {step} (id {int(tokens.token_ids[row, step])})"
            raise NonFiniteError(name, values[row, step].item(), batch, row, token)
    for name, values in (("rewards", output.rewards), ("losses", output.losses)):
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise NonFiniteError(name, values[row].item(), batch, row)
