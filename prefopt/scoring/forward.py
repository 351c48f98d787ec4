"""Forward passes of a causal LM over a layout, and its states at the response tokens."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from prefopt.scoring.activation_hooks import logit_activations, record
from prefopt.scoring.fsdp import call_in_forward
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.lm_head.token_statistics import TokenStatistics
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.rotary import longest_unscaled_row, rows_at_their_lengths
from prefopt.signals import SIGNALS, Signal
from prefopt.tokens import TokenBatch, TokenPositions

_T = TypeVar("_T")

_RECOMPILE_LIMIT = 64
"""Most compiled forms of a module: with and without gradient, in training and evaluation, shared rows and not, adapters
on and off. Torch's own limit counts those of every module that shares code."""


@final
@dataclass(frozen=True, eq=False)
class ModelStates:
    """The states of one model at the M response tokens.

    last_hidden_state [M, H]  at the query positions; None after the plain forward pass
    logits [M, V]             at the query positions; None but after the plain forward pass
    logps [M]                 log-probabilities of the tokens, where they are known
    signals                   fields of TokenBatch, of the shapes that `SIGNALS` has: stacks have the response axis N
                              second, so that a component reads a layer or a site, [N, T, ...], as one tensor
    activation_kinds          the kinds of REF_ACTIVATIONS
    router_logits             [R * S, E] of each layer with E experts, where they were asked for
    """

    last_hidden_state: Tensor | None = None
    logits: Tensor | None = None
    logps: Tensor | None = None
    signals: Mapping[Signal, Tensor] = field(default_factory=dict)
    activation_kinds: tuple[str, ...] = ()
    router_logits: tuple[Tensor, ...] = ()

    @property
    def hidden(self) -> Tensor:
        """`last_hidden_state`, which must be there."""
        assert self.last_hidden_state is not None
        return self.last_hidden_state

    def added_to(self, other: ModelStates | None) -> ModelStates | None:
        """The other model's states with these signals; None where there are neither."""
        if not self.signals:
            return other
        other = other or ModelStates()
        return replace(other, signals={**other.signals, **self.signals})

    def select(self, rows: Tensor, tokens: Tensor) -> Self:
        """The states of some of the N responses, whose tokens are `tokens` among all M."""
        final, logits, logps = (
            None if states is None else states[tokens] for states in (self.last_hidden_state, self.logits, self.logps)
        )
        signals = {
            signal: states[(slice(None),) * SIGNALS[signal].row_axis + (rows,)]
            for signal, states in self.signals.items()
        }
        return replace(self, last_hidden_state=final, logits=logits, logps=logps, signals=signals)


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face causal LM itself, with an adapter's layers in place but without the adapter's wrapper."""
    unwrap = getattr(model, "get_base_model", None)
    lm = model if unwrap is None else unwrap()
    if not isinstance(lm, PreTrainedModel) or lm.get_output_embeddings() is None:
        raise TypeError(f"{type(lm).__name__} is not a Hugging Face causal language model")
    config = lm.config.get_text_config()
    if missing := [name for name in ("num_hidden_layers", "hidden_size") if not hasattr(config, name)]:
        raise TypeError(
            f"{type(lm).__name__}: its configuration has no {' and no '.join(missing)}, so it is not one stack of "
            "layers; take a model that is"
        )
    return lm


def backbone(lm: PreTrainedModel) -> PreTrainedModel:
    """The causal LM up to its head; the whole, where it does not tell them apart."""
    base = lm.base_model
    # Llama4ForCausalLM is its own `base_model`, under the name that its backbone has in a multimodal model.
    return getattr(lm, "model", lm) if base is lm else base


def forward_hidden_states(
    model: nn.Module,
    layout: Layout,
    *,
    plain_forward: bool = False,
    signals: frozenset[Signal] = frozenset(),
    activation_kinds: frozenset[str] = frozenset(),
    router_logits: bool = False,
) -> ModelStates:
    """One forward pass of the backbone, or, with `plain_forward`, of the whole model to its logits."""
    lm = causal_lm(model)
    config = lm.config.get_text_config()
    last_states = [signal for signal in signals if SIGNALS[signal].last_states]
    wants_states = any(SIGNALS[signal].layers is not None for signal in signals)
    wants_states = wants_states or (plain_forward and bool(last_states))
    kinds = activation_kinds if Signal.REF_ACTIVATIONS in signals else frozenset()
    body = backbone(lm)
    recording = record(body, kinds, layout.input_ids.shape, config)
    # Compiled code runs no hooks, and compiled models are verified against the plain forward pass.
    rescales = layout.prefix is None and layout.width >= longest_unscaled_row(lm)
    eager = not_compiled(body) if plain_forward or wants_states or kinds or rescales else nullcontext()
    rotary = rows_at_their_lengths(lm, layout.attention_mask) if rescales else nullcontext()
    with eager, recording as sites, rotary:
        output = (model if plain_forward else body)(
            **layout.inputs(lm.dtype, config._attn_implementation),
            output_hidden_states=wants_states,
            use_cache=False,
            **({"output_router_logits": True} if router_logits else {}),
        )
    states = output.logits if plain_forward else output.last_hidden_state
    # An adapter may have put tokens of its own before each row.
    gathered = layout.gather(states[:, -layout.width :], layout.query_positions)
    collected: dict[Signal, Tensor] = {}
    for signal in signals:
        spec = SIGNALS[signal]
        if spec.layers is not None:
            layers = _checked_layers(lm, output, layout.input_ids.shape)[spec.layers]
            collected[signal] = layout.stack(layers, getattr(layout, spec.positions))
    if last_states:
        final = _checked_layers(lm, output, layout.input_ids.shape)[-1] if plain_forward else None
        final = gathered if final is None else layout.gather(final, layout.query_positions)
        collected |= dict.fromkeys(last_states, layout.scatter(final.detach()))
    activations: list[tuple[str, Tensor]] = []
    if kinds:
        by_kind = ((kind, values) for (kind, _), parts in sites.items() for values in parts)
        activations = [(kind, layout.gather(values, layout.query_positions)) for kind, values in by_kind]
        activations += logit_activations(kinds, gathered, None if plain_forward else Head.from_model(lm))
        collected[Signal.REF_ACTIVATIONS] = torch.stack([layout.scatter(values) for _, values in activations])
    if any(SIGNALS[signal].takes_ref_logits for signal in signals):
        numbers = _of_distributions(signals, gathered, None if plain_forward else Head.from_model(lm))
        collected |= {signal: layout.scatter(values) for signal, values in numbers.items()}
    return ModelStates(
        **{"logits" if plain_forward else "last_hidden_state": gathered},
        signals=collected,
        activation_kinds=tuple(kind for kind, _ in activations),
        router_logits=output.router_logits if router_logits else (),
    )


@torch.no_grad()
def _of_distributions(signals: Collection[Signal], states: Tensor, head: Head | None) -> dict[Signal, Tensor]:
    """The signals that are numbers of the reference's distribution, [M] each, from last hidden states [M, H] and the
    head, or from logits [M, V]."""
    functions = {
        signal: function
        for signal in signals
        if SIGNALS[signal].of_reference and (function := SIGNALS[signal].of_distribution) is not None
    }
    chunks = (logits.to(wide(logits.dtype)) for logits in ([states] if head is None else head.logit_chunks(states)))
    parts = [
        {signal: function(log_probs) for signal, function in functions.items()}
        for log_probs in (logits.log_softmax(-1) for logits in chunks)
    ]
    return {signal: torch.cat([part[signal] for part in parts]) for signal in functions}


@contextmanager
def without_gradients() -> Iterator[None]:
    """torch.no_grad for calls in training mode, of which reentrant checkpointing warns that no gradient comes back."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        yield


def in_fsdp_forward(model: nn.Module, function: Callable[[], _T], *, plain_forward: bool = False) -> _T:
    """Call `function`, which runs the model's backbone and reads its head, while FSDP2 has gathered both. With
    `plain_forward` it calls the model itself, which gathers its parameters."""
    lm = causal_lm(model)
    return function() if plain_forward else call_in_forward(model, backbone(lm), lm.get_output_embeddings(), function)


def token_batch(layout: Layout, statistics: TokenStatistics, reference: ModelStates | None) -> TokenBatch:
    """The TokenBatch of statistics [M] and the reference's signals, under their names there."""
    reference = reference or ModelStates()
    fields: dict[str, Any] = {signal.value: states for signal, states in reference.signals.items()}
    for name, values in statistics._asdict().items():
        fields[name] = None if values is None else layout.scatter(values)
    kinds = reference.activation_kinds
    return TokenBatch(
        mask=layout.mask,
        token_ids=layout.token_ids,
        activation_kinds=kinds,
        columns=layout.columns,
        positions=TokenPositions(layout.mask, layout.token_positions),
        **fields,
    )


def turn_dropout_off(model: nn.Module) -> None:
    """Set every dropout probability of the model to zero: of dropout layers, of modules that hand theirs to a function,
    and of those that read it from the configuration. These get a copy to read: the model's own is saved with it. What
    else draws in training mode, the first batch shows (see `compatibility`)."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in _dropouts(module):
            setattr(module, name, 0.0)
    copies: dict[int, PreTrainedConfig] = {}
    for module in causal_lm(model).modules():
        config = vars(module).get("config")
        if isinstance(config, PreTrainedConfig) and not isinstance(module, PreTrainedModel) and _dropouts(config):
            module.config = copies.setdefault(id(config), copy(config))
            for name in _dropouts(module.config):
                setattr(module.config, name, 0.0)


def _dropouts(holder: object) -> list[str]:
    """The attributes that are dropout or layerdrop probabilities above zero."""
    return [name for name, value in vars(holder).items() if "drop" in name and isinstance(value, float) and value > 0]


def _checked_layers(lm: PreTrainedModel, output: Any, shape: torch.Size) -> tuple[Tensor, ...]:
    """The states of the embeddings and of every layer, [R, S, H] each; `shape` is R, S. Raises ValueError where a model
    gives others."""
    config, layers = lm.config.get_text_config(), getattr(output, "hidden_states", None) or ()
    # An adapter may have put tokens of its own before each row.
    layers = tuple(layer[:, -shape[1] :] if layer.ndim == 3 else layer for layer in layers)
    expected = (*shape, config.hidden_size)
    if len(layers) != config.num_hidden_layers + 1 or any(layer.shape != expected for layer in layers):
        shapes = ", ".join(sorted({str(list(layer.shape)) for layer in layers}))
        raise ValueError(
            f"no mask over layers can read the model's states: {type(lm).__name__} gives {len(layers)} of shape "
            f"{shapes or 'none'}, not embeddings and {config.num_hidden_layers} layers of {list(expected)}; take an "
            "objective that reads no hidden states"
        )
    return layers


def compile_in_place(module: nn.Module, *, backend: str | Callable[..., Any], mode: str | None) -> None:
    """Compile the calls of a module, with symbolic sizes; its name, parameters and state stay as they are."""
    limits = {"recompile_limit": _RECOMPILE_LIMIT, "isolate_recompiles": True}
    parameters = inspect.signature(torch.compile).parameters  # releases before 2.12 have one limit for all
    supported = {name: limit for name, limit in limits.items() if name in parameters}
    module.compile(dynamic=True, backend=backend, mode=mode, **supported)


def not_compiled(module: nn.Module) -> AbstractContextManager[Any]:
    """A context in which the module is called as it is written."""
    if module._compiled_call_impl is None:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
