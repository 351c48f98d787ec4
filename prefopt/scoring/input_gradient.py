"""How far the input embedding of a response token moves what a model says after the response."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefopt.scoring.forward import ModelStates, backbone, causal_lm, forward_hidden_states, not_compiled
from prefopt.scoring.fsdp import is_sharded
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.rows.layout import Layout
from prefopt.signals import SIGNALS, Signal


def states_and_gradients(
    model: nn.Module,
    layout: Layout,
    *,
    plain_forward: bool = False,
    signals: frozenset[Signal] = frozenset(),
    **options: Any,
) -> ModelStates:
    """`forward_hidden_states` of these options, and those of the signals that are input gradients, for which the model
    is run before it."""
    wanted = [signal for signal in signals if SIGNALS[signal].input_gradient]
    norms = input_gradients(model, layout, plain_forward=plain_forward) if wanted else None
    states = forward_hidden_states(model, layout, plain_forward=plain_forward, signals=signals, **options)
    return states if norms is None else replace(states, signals={**states.signals, **dict.fromkeys(wanted, norms)})


def input_gradients(model: nn.Module, layout: Layout, *, plain_forward: bool = False) -> Tensor:
    """|d max_v z_v / d e_t|_1 of every response token t, [N, T], without gradient.

    z are the logits at the last token of the response, e_t is what the embedding layer gives at t's own position. A
    forward pass of its own, and a backward pass that stops at the embeddings and leaves no gradient on any parameter.
    Raises ValueError where the model's parameters are sharded, or its embedding layer is not called once a pass.
    """
    lm = causal_lm(model)
    if is_sharded(model):
        raise ValueError(
            "a component reads the gradient at the input embeddings, which cannot be taken of a model sharded by FSDP; "
            "take it from the reference through a cache filled in one process (reference_cache), or train without FSDP"
        )
    lengths = layout.mask.sum(-1)
    ends = layout.label_positions[(lengths.cumsum(0) - 1)[lengths > 0]]
    with torch.enable_grad(), not_compiled(backbone(lm)), embeddings_as_leaf(lm) as leaves:
        states = forward_hidden_states(model, replace(layout, query_positions=ends), plain_forward=plain_forward)
        logits = _logits(states.hidden, Head.from_model(lm)) if states.logits is None else states.logits
        if len(leaves) != 1:
            raise ValueError(
                f"a component reads the gradient at the input embeddings, but {type(lm).__name__} calls its embedding "
                f"layer {len(leaves)} times in a pass; take a component that reads other signals"
            )
        highest = logits.to(wide(logits.dtype)).max(-1).values
        (gradient,) = torch.autograd.grad(highest.sum(), leaves)
    norms = gradient.to(wide(gradient.dtype)).abs().sum(-1)
    # An adapter may have put tokens of its own before each row.
    return layout.scatter(layout.gather(norms[:, -layout.width :], layout.label_positions))


def _logits(hidden: Tensor, head: Head) -> Tensor:
    """hidden [N, H] -> z [N, V], by autograd; `Head.logits` writes in place."""
    logits = head.scale * nn.functional.linear(hidden.to(head.weight.dtype), head.weight, head.bias)
    return logits if head.softcap is None else head.softcap * (logits / head.softcap).tanh()


@contextmanager
def embeddings_as_leaf(lm: PreTrainedModel) -> Iterator[list[Tensor]]:
    """What the embedding layer gives, in this context, as leaves that take gradient, one for each call."""
    leaves: list[Tensor] = []

    def as_leaf(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = lm.get_input_embeddings().register_forward_hook(as_leaf)
    try:
        yield leaves
    finally:
        handle.remove()
