"""The proof of the fast path: log-probabilities and signals against those of the models' plain forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from prefopt.scoring.adapters import needs_plain_call
from prefopt.scoring.forward import (
    ModelStates,
    backbone,
    causal_lm,
    forward_hidden_states,
    in_fsdp_forward,
    not_compiled,
    without_gradients,
)
from prefopt.scoring.input_gradient import states_and_gradients
from prefopt.scoring.lm_head.head import Head, UnsupportedHeadError
from prefopt.scoring.lm_head.token_statistics import dense_statistics, token_statistics
from prefopt.scoring.probes import moved_adapter
from prefopt.scoring.rounding import difference, disturbed, is_head_of, rounding_unit
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.limits import attention_window
from prefopt.scoring.rows.packing import Placement
from prefopt.signals import Signal
from prefopt.tokens import PreferenceBatch

_LOGITS_BYTES = 2**27
"""Most bytes of logits of a plain call, unless one row has more, or the models' processes wait for each other in it."""


@final
class Role(NamedTuple):
    """A model, what it is called, what makes the context in which it has that role (a policy is its own reference while
    its adapter is off), and the signals that are collected from it."""

    name: str
    model: nn.Module
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    signals: frozenset[Signal] = frozenset()
    activation_kinds: frozenset[str] = frozenset()


@final
@dataclass(frozen=True)
class Disagreement:
    """How models differ from their plain forward pass: with the gathered head, and on shared rows; and how this differs
    with padding. None where they agree."""

    head: str | None = None
    sharing: str | None = None
    padding: str | None = None


@without_gradients()
def disagreement(
    roles: Sequence[Role], batch: PreferenceBatch, placement: Placement | None, *, made_up: bool = False
) -> Disagreement:
    """The first disagreement of a model on a batch, in rows shared as placed; in two rows a pair where there is no
    placement. Of pairs that are made up (those of `probe_batch`), adapters are moved off their initial values, and
    padding, head and signals are compared too."""
    sharing = None
    for role in roles:
        with role.context(), moved_adapter(role.model) if made_up else nullcontext():
            result = _of_role(role, batch, placement, made_up)
        if result.head or result.padding:
            problems = {name: f"{role.name}: {text}" for name, text in vars(result).items() if text}
            return Disagreement(**problems)
        if result.sharing and sharing is None:
            sharing = f"{role.name}: {result.sharing}"
    return Disagreement(sharing=sharing)


def _of_role(role: Role, batch: PreferenceBatch, placement: Placement | None, made_up: bool) -> Disagreement:
    model, lm = role.model, causal_lm(role.model)
    name = type(lm).__name__
    if (reason := needs_plain_call(model)) is not None:
        return Disagreement(reason)
    two_rows, unit = Layout.two_rows(batch), rounding_unit(model)
    # Of pairs that are made up, all processes have the same number of parts.
    in_parts = made_up or not (torch.distributed.is_available() and torch.distributed.is_initialized())
    plain = _plain_logps(model, two_rows, in_parts=in_parts)
    with disturbed(model, unit):
        noisy = _plain_logps(model, two_rows, in_parts=in_parts)
    padding = _of_padding(model, batch, plain, noisy) if made_up else None
    if padding:
        return Disagreement(padding=padding)
    try:
        Head.from_model(lm)
        if made_up or placement is None:
            logps = _gathered_logps(model, two_rows)
            agrees = not made_up or _head_agrees(model, _unpadded_row(batch), unit)
            if difference(logps, plain, noisy) is not None or not agrees:
                return Disagreement(
                    f"log-probabilities from {name}'s hidden states and head differ from those of its own call by up "
                    f"to {(logps - plain).abs().max().item():.2g} nats"
                )
    except UnsupportedHeadError as error:
        return Disagreement(str(error))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a backbone that gives no hidden states, or others than its head takes
        return Disagreement(f"the hidden states of {name} and its head do not fit ({_line(error)})")
    return Disagreement() if placement is None else _of_sharing(role, batch, placement, plain, noisy, made_up)


def _of_sharing(
    role: Role, batch: PreferenceBatch, placement: Placement, plain: Tensor, noisy: Tensor, made_up: bool
) -> Disagreement:
    lm = causal_lm(role.model)
    name, window = type(lm).__name__, attention_window(lm)
    layout = Layout.shared(batch, placement)
    if window == 0:
        return Disagreement(
            sharing=f"{name} has layers that are recurrent or select what they see, whatever a mask says"
        )
    if layout.width > window:
        return Disagreement(
            sharing=f"{name} has layers that see only the last {window:.0f} tokens, of {layout.width} in a row that a "
            f"pair of this batch would share"
        )
    two_rows = Layout.two_rows(batch)
    usual = _signals(role, two_rows) if made_up else {}
    try:
        logps = _gathered_logps(role.model, layout)
        shared = _signals(role, layout) if made_up else {}
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # modelling code that takes no such mask or positions may fail in any way
        return Disagreement(sharing=f"{name} does not take pairs in one row ({_line(error)})")
    nats = difference(logps, plain, noisy)
    if nats is not None:
        return Disagreement(
            sharing=f"{name}'s log-probabilities differ by up to {nats:.2g} nats where the two responses of a pair "
            f"share a row"
        )
    if usual:
        with disturbed(role.model, rounding_unit(role.model)):
            noisy_signals = _signals(role, two_rows)
        for signal, values in usual.items():
            distance = difference(shared[signal], values, noisy_signals[signal])
            if distance is not None:
                return Disagreement(
                    sharing=f"{name}'s {signal.value} differ by up to {distance:.2g} where the two responses of a pair "
                    f"share a row"
                )
    return Disagreement()


def _of_padding(model: nn.Module, batch: PreferenceBatch, plain: Tensor, noisy: Tensor) -> str | None:
    """Compare a response alone with the same one beside longer rows."""
    alone = _plain_logps(model, _unpadded_row(batch))
    start = int(Layout.two_rows(batch).mask[: batch.pairs + 2].sum())
    here = slice(start, start + len(alone))
    nats = difference(alone, plain[here], noisy[here])
    if nats is None:
        return None
    return (
        f"log-probabilities of {type(causal_lm(model)).__name__} differ by up to {nats:.2g} nats between a response "
        "alone and the same one padded beside longer ones, so that no batch of pairs says what the model says. Lower "
        "max_length, or use another attn_implementation or architecture"
    )


def _third_pair(batch: PreferenceBatch) -> PreferenceBatch:
    return PreferenceBatch.from_mapping({name: values[2:3] for name, values in batch.as_mapping().items()})


def _unpadded_row(batch: PreferenceBatch) -> Layout:
    """The rejected response of the third made-up pair, which is shorter than the chosen one."""
    return _part(Layout.two_rows(_third_pair(batch)), 1, 2)


def _part(layout: Layout, start: int, stop: int) -> Layout:
    """Some rows of a layout of two rows a pair, without the padding that they have in common."""
    width = int(layout.attention_mask[start:stop].sum(-1).max())
    tokens = slice(int(layout.mask[:start].sum()), int(layout.mask[:stop].sum()))

    def positions(values: Tensor) -> Tensor:
        rows, columns = values[tokens] // layout.width - start, values[tokens] % layout.width
        return rows * width + columns

    return replace(
        layout,
        input_ids=layout.input_ids[start:stop, :width],
        attention_mask=layout.attention_mask[start:stop, :width],
        mask=layout.mask[start:stop],
        token_ids=layout.token_ids[start:stop],
        query_positions=positions(layout.query_positions),
        label_positions=positions(layout.label_positions),
        token_positions=layout.token_positions[tokens] - start * layout.mask.shape[1],
        columns={},
    )


def _plain_logps(model: nn.Module, layout: Layout, *, in_parts: bool = False) -> Tensor:
    """Log-probabilities of the M tokens, `in_parts` in as many calls as their logits take."""
    rows = len(layout.input_ids)
    row_bytes = 4 * layout.width * causal_lm(model).get_output_embeddings().weight.shape[0]
    step = max(1, _LOGITS_BYTES // row_bytes) if in_parts else rows
    parts = (
        [_part(layout, start, min(start + step, rows)) for start in range(0, rows, step)] if step < rows else [layout]
    )
    return torch.cat([dense_statistics(_plain_logits(model, part), None, part.labels).logps for part in parts])


def _plain_logits(model: nn.Module, layout: Layout) -> Tensor:
    logits = forward_hidden_states(model, layout, plain_forward=True).logits
    assert logits is not None
    return logits


def _gathered_logps(model: nn.Module, layout: Layout) -> Tensor:
    def logps() -> Tensor:
        hidden = forward_hidden_states(model, layout).hidden
        return token_statistics(hidden, Head.from_model(causal_lm(model)), None, None, layout.labels).logps

    return in_fsdp_forward(model, logps)


def _head_agrees(model: nn.Module, layout: Layout, unit: float) -> bool:
    """Whether logits are those of head and hidden states of an equal call, up to the head's own rounding."""
    lm, logits = causal_lm(model), _plain_logits(model, layout)

    def agrees() -> bool:
        with not_compiled(backbone(lm)):
            hidden = forward_hidden_states(model, layout).hidden
        return is_head_of(hidden, logits, Head.from_model(lm), unit)

    return in_fsdp_forward(model, agrees)


def _signals(role: Role, layout: Layout) -> dict[Signal, Tensor]:
    if not role.signals:
        return {}

    def states() -> ModelStates:
        return states_and_gradients(role.model, layout, signals=role.signals, activation_kinds=role.activation_kinds)

    return dict(in_fsdp_forward(role.model, states).signals)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
