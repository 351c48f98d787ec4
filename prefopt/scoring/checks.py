"""What is checked while scoring: that what is faster agrees with the plain call, and that every number is finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from prefopt.objective import ObjectiveOutput
from prefopt.scoring.forward import causal_lm, run, within
from prefopt.scoring.lm_head.head import Head, UnsupportedHeadError
from prefopt.scoring.lm_head.token_statistics import dense_statistics, token_statistics
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.limits import reach
from prefopt.tokens import PreferenceBatch

__all__ = ["Disagreement", "NonFiniteError", "disagreement", "is_finite", "require_finite"]


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


_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.1
"""Largest difference of log-probabilities, in nats, that rounding explains at each precision. Norms and softmax of most
architectures round to float32 even in a float64 model."""


@final
@dataclass(frozen=True)
class Disagreement:
    """What differs from the plain model call: log-probabilities from the gathered head, and those with pairs sharing
    a row. None where they agree."""

    head: str | None = None
    sharing: str | None = None


@torch.no_grad()
def disagreement(model: nn.Module, rows: Layout, shared: Layout | None) -> Disagreement:
    """Compare the plain model call on two rows a pair with what is faster: the gathered head there, and on `shared`."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return Disagreement("its adapter acts before the first token, where only the model's own call takes it in")
    lm = causal_lm(model)
    name = type(lm).__name__
    try:
        dtype = Head.of(lm).weight.dtype
    except UnsupportedHeadError as error:
        return Disagreement(str(error))
    plain = dense_statistics(run(model, rows, plain=True).computed, None, rows.labels).logps
    difference = _difference(_gathered(model, rows), plain, dtype)
    if difference is not None:
        return Disagreement(
            f"log-probabilities from {name}'s hidden states and head differ from those of its own call by up to "
            f"{difference:.2g} nats"
        )
    if shared is None:
        return Disagreement()
    try:
        difference = _difference(_gathered(model, shared), plain, dtype)
    except Exception as error:  # modelling code that takes no such mask or positions may fail in any way
        return Disagreement(sharing=f"{name} does not take pairs in one row ({type(error).__name__}: {error})")
    if shared.width > reach(lm):
        return Disagreement(
            sharing=f"{name} has layers that see only the last {reach(lm):.0f} tokens, of {shared.width} in a row that "
            f"a pair of this batch would share"
        )
    if difference is not None:
        return Disagreement(
            sharing=f"{name}'s log-probabilities differ by up to {difference:.2g} nats where the two responses of a "
            f"pair share a row"
        )
    return Disagreement()


def _gathered(model: nn.Module, layout: Layout) -> Tensor:
    def logps() -> Tensor:
        states = run(model, layout, plain=False).computed
        return token_statistics(states, Head.of(causal_lm(model)), None, None, layout.labels).logps

    return within(model, logps, plain=False)


def _difference(found: Tensor, plain: Tensor, dtype: torch.dtype) -> float | None:
    """The largest that rounding does not explain, if there is one."""
    tolerance = _TOLERANCES.get(dtype, _HALF_TOLERANCE)
    if torch.is_autocast_enabled(plain.device.type):
        tolerance = _HALF_TOLERANCE
    agree = torch.isclose(found, plain, rtol=tolerance, atol=tolerance)
    # NaN in one response reaches the others of its row. The step that it is in ends with an error anyway.
    agree |= found.isnan() & plain.isnan().any()
    return None if bool(agree.all()) else (found - plain).abs()[~agree].max().item()


def is_finite(output: ObjectiveOutput) -> bool:
    """Whether the losses are."""
    return bool(torch.isfinite(output.losses).all())


def require_finite(output: ObjectiveOutput, batch: PreferenceBatch) -> None:
    """Raise FloatingPointError naming the first tensor, the pair and the response that are not finite, if the loss is
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
