"""The layout of a model's pairs, chosen on the first batch: what is faster must agree with the plain forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from prefopt.scoring.adapters import needs_plain_call
from prefopt.scoring.forward import causal_lm, forward_hidden_states, in_fsdp_forward
from prefopt.scoring.lm_head.head import Head, UnsupportedHeadError
from prefopt.scoring.lm_head.token_statistics import dense_statistics, token_statistics
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.limits import RowLimits, attention_window, best_layout
from prefopt.scoring.rows.packing import two_in_a_row
from prefopt.tokens import PreferenceBatch

_MAX_PAIRS = 4
"""Pairs of the first batch that are verified."""

_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.1
"""Largest difference of log-probabilities, in nats, that rounding explains in a dtype. Norms and softmax of most
architectures round to float32 also in a float64 model."""


@final
class Role(NamedTuple):
    """A model, what it is called, and the context in which it has that role: a policy is its own reference while its
    adapter is off."""

    name: str
    model: nn.Module
    context: AbstractContextManager[Any]


@final
@dataclass(frozen=True)
class Disagreement:
    """How log-probabilities differ from those of the plain forward pass: of the gathered head, and of shared rows. None
    where they agree."""

    head: str | None = None
    sharing: str | None = None


@final
class LayoutChoice:
    """uses_plain_forward  whether models are called in full, logits and all; None before the first batch
    shares             whether pairs may share rows, where that is less work
    """

    def __init__(self) -> None:
        self.uses_plain_forward: bool | None = None
        self.shares = False
        self._limits = RowLimits(attention_window=0, max_positions=0)

    def layout(self, batch: PreferenceBatch, hidden_size: int) -> Layout:
        """The layout of least work among those that are right for the models."""
        return best_layout(batch, hidden_size, self._limits) if self.shares else Layout.two_rows(batch)

    def verify_against_plain_forward(self, batch: PreferenceBatch, roles: Sequence[Role], *, share: bool) -> None:
        """Choose the fastest of what agrees with the plain forward pass in all models; warn of what does not. `share`:
        whether shared rows are considered.

        A few pairs of a large batch, of evenly spaced lengths, are compared, since the plain forward pass has all their
        logits at once. The number of passes depends on the models alone and not on the batch: processes that wait for
        each other in every pass may have different batches.
        """
        batch = _evenly_spaced(batch)
        limits = RowLimits.from_models(causal_lm(role.model) for role in roles)
        placement = two_in_a_row(batch.lengths.tolist(), limits.max_positions)
        self._limits = limits if any(placement.starts) else limits._replace(max_positions=0)
        two_rows, shared = Layout.two_rows(batch), Layout.shared(batch, placement) if share else None
        refusals = []
        for name, model, context in roles:
            with context:
                result = disagreement(model, two_rows, shared)
            if result.head:
                _warn(f"{name}: {result.head}. Calling the models plainly", "slower and with full logits")
                self.uses_plain_forward = True
                return
            if result.sharing:
                refusals.append(f"{name}: {result.sharing}")
        self.uses_plain_forward, self.shares = False, shared is not None and not refusals
        if refusals:
            _warn(f"{refusals[0]}. Giving each response a row of its own", "computing every prompt twice")


def _evenly_spaced(batch: PreferenceBatch) -> PreferenceBatch:
    """At most `_MAX_PAIRS` pairs, evenly spaced by length, with the shortest and the longest."""
    if batch.pairs <= _MAX_PAIRS:
        return batch
    ranks = torch.linspace(0, batch.pairs - 1, _MAX_PAIRS, device=batch.rows.device).round().long()
    kept = batch.lengths.argsort(stable=True)[ranks].sort().values
    return PreferenceBatch.from_mapping({name: values[kept] for name, values in batch.as_mapping().items()})


def _warn(finding: str, price: str) -> None:
    warnings.warn(f"{finding} from now on: right, but {price}.", stacklevel=5)


@torch.no_grad()
def disagreement(model: nn.Module, two_rows: Layout, shared: Layout | None) -> Disagreement:
    """Compare the plain forward pass on two rows a pair with the gathered head, there and on shared rows."""
    if (reason := needs_plain_call(model)) is not None:
        return Disagreement(reason)
    lm = causal_lm(model)
    name = type(lm).__name__
    try:
        dtype = Head.from_model(lm).weight.dtype
    except UnsupportedHeadError as error:
        return Disagreement(str(error))
    logits = forward_hidden_states(model, two_rows, plain_forward=True).logits
    assert logits is not None
    plain = dense_statistics(logits, None, two_rows.labels).logps
    difference = _difference(_gathered_logps(model, two_rows), plain, dtype)
    if difference is not None:
        return Disagreement(
            f"log-probabilities from {name}'s hidden states and head differ from those of its own call by up to "
            f"{difference:.2g} nats"
        )
    if shared is None:
        return Disagreement()
    try:
        difference = _difference(_gathered_logps(model, shared), plain, dtype)
    except Exception as error:  # modelling code that takes no such mask or positions may fail in any way
        return Disagreement(sharing=f"{name} does not take pairs in one row ({type(error).__name__}: {error})")
    if shared.width > attention_window(lm):
        return Disagreement(
            sharing=f"{name} has layers that see only the last {attention_window(lm):.0f} tokens, of {shared.width} in "
            f"a row that a pair of this batch would share"
        )
    if difference is not None:
        return Disagreement(
            sharing=f"{name}'s log-probabilities differ by up to {difference:.2g} nats where the two responses of a "
            f"pair share a row"
        )
    return Disagreement()


def _gathered_logps(model: nn.Module, layout: Layout) -> Tensor:
    def logps() -> Tensor:
        hidden = forward_hidden_states(model, layout).hidden
        return token_statistics(hidden, Head.from_model(causal_lm(model)), None, None, layout.labels).logps

    return in_fsdp_forward(model, logps)


def _difference(logps: Tensor, plain: Tensor, dtype: torch.dtype) -> float | None:
    """The largest difference; None where rounding explains all."""
    tolerance = _TOLERANCES.get(dtype, _HALF_TOLERANCE)
    if torch.is_autocast_enabled(plain.device.type):
        tolerance = _HALF_TOLERANCE
    agree = torch.isclose(logps, plain, rtol=tolerance, atol=tolerance)
    # NaN in one response reaches the others of its row. The step that it is in ends with an error anyway.
    agree |= logps.isnan() & plain.isnan().any()
    return None if bool(agree.all()) else (logps - plain).abs()[~agree].max().item()
