"""Runs a causal LM over a layout and gathers what is wanted at the response tokens, before or after its head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from prefopt.component import Signal
from prefopt.scoring.activation_hooks import logit_activations, record
from prefopt.scoring.compiled import not_compiled
from prefopt.scoring.fsdp import as_forward
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.token_statistics import TokenStatistics
from prefopt.scoring.rows.layout import Layout
from prefopt.tokens import TokenBatch

__all__ = ["ModelStates", "causal_lm", "run", "token_batch", "turn_dropout_off", "within"]

_T = TypeVar("_T")


@final
@dataclass(frozen=True, eq=False)
class ModelStates:
    """What one model said at the M response tokens.

    final [M, H]  last hidden states at the predicting positions, or [M, V] logits there where the plain call was asked
    logps [M]     log-probabilities of the tokens, where they are known already; `final` may be None then
    hidden_states, token_states [L, N, T, H]; embeddings [1, N, T, H]; activations [S, N, T] with their kinds; None
                  unless asked for
    """

    final: Tensor | None
    logps: Tensor | None = None
    hidden_states: Tensor | None = None
    token_states: Tensor | None = None
    embeddings: Tensor | None = None
    activations: Tensor | None = None
    activation_kinds: tuple[str, ...] = ()

    @property
    def computed(self) -> Tensor:
        """`final`, of a model that has just been run."""
        assert self.final is not None
        return self.final

    def at(self, rows: Tensor, tokens: Tensor) -> Self:
        """Of some of the N responses, and of their tokens among all M."""

        def pick(name: str, *index: Any) -> Tensor | None:
            values: Tensor | None = getattr(self, name)
            return None if values is None else values[index]

        return replace(
            self,
            final=pick("final", tokens),
            logps=pick("logps", tokens),
            hidden_states=pick("hidden_states", slice(None), rows),
            token_states=pick("token_states", slice(None), rows),
            embeddings=pick("embeddings", slice(None), rows),
            activations=pick("activations", slice(None), rows),
        )


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face causal LM itself, with an adapter's layers in place but without the adapter's wrapper."""
    unwrap = getattr(model, "get_base_model", None)
    inner = model if unwrap is None else unwrap()
    if not isinstance(inner, PreTrainedModel) or inner.get_output_embeddings() is None:
        raise TypeError(f"{type(inner).__name__} is not a Hugging Face causal language model")
    return inner


def run(
    model: nn.Module,
    layout: Layout,
    *,
    plain: bool,
    signals: frozenset[Signal] = frozenset(),
    activation_kinds: frozenset[str] = frozenset(),
) -> ModelStates:
    """One forward pass. `plain` calls the model as anyone would and takes its logits; otherwise the head is left
    out."""
    lm = causal_lm(model)
    config = lm.config.get_text_config()
    wants_states = bool(signals & {Signal.REF_HIDDEN_STATES, Signal.REF_TOKEN_STATES, Signal.REF_EMBEDDINGS})
    listening = Signal.REF_ACTIVATIONS in signals
    recording = record(
        lm.base_model,
        activation_kinds,
        shape=layout.input_ids.shape,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
    )
    # Compiled code does not hear hooks, and the plain call is what it is compared with.
    as_written = not_compiled(lm.base_model) if plain or wants_states or listening else nullcontext()
    with as_written, recording if listening else nullcontext() as recorder:
        output = (model if plain else lm.base_model)(
            **layout.inputs(lm.dtype, config._attn_implementation),
            output_hidden_states=wants_states,
            use_cache=False,
        )
    everything = output.hidden_states if wants_states else ()
    embeddings, layers = everything[:1], everything[1:]
    activations: list[tuple[str, Tensor]] = []
    states = output.logits if plain else output.last_hidden_state
    length = layout.width  # an adapter may have put tokens of its own before each row
    final = layout.gather(states[:, -length:], layout.predicting)
    if recorder is not None:
        activations = [(kind, layout.gather(values, layout.predicting)) for kind, values in recorder.collect()]
        activations += logit_activations(activation_kinds, final, None if plain else Head.of(lm))
    return ModelStates(
        final=final,
        hidden_states=_layers(layout, layers, layout.predicting, Signal.REF_HIDDEN_STATES in signals),
        token_states=_layers(layout, layers, layout.own, Signal.REF_TOKEN_STATES in signals),
        embeddings=_layers(layout, embeddings, layout.own, Signal.REF_EMBEDDINGS in signals),
        activations=torch.stack([layout.scatter(values) for _, values in activations]) if listening else None,
        activation_kinds=tuple(kind for kind, _ in activations),
    )


def within(model: nn.Module, function: Callable[[], _T], *, plain: bool) -> _T:
    """Call `function`, which runs the model and reads its head, where FSDP2 has made whole what both need. `plain`:
    it calls the model itself, which sees to that.
    """
    lm = causal_lm(model)
    return function() if plain else as_forward(model, lm.base_model, lm.get_output_embeddings(), function)


def token_batch(layout: Layout, statistics: TokenStatistics, reference: ModelStates | None) -> TokenBatch:
    """What was found at the M response tokens, as [N, T], with the reference's signals."""
    return TokenBatch(
        logps=layout.scatter(statistics.logps),
        ref_logps=layout.scatter(statistics.ref_logps),
        mask=layout.mask,
        token_ids=layout.token_ids,
        divergence=None if statistics.divergence is None else layout.scatter(statistics.divergence),
        log_collision=None if statistics.log_collision is None else layout.scatter(statistics.log_collision),
        ref_hidden_states=None if reference is None else reference.hidden_states,
        ref_token_states=None if reference is None else reference.token_states,
        ref_embeddings=None if reference is None else reference.embeddings,
        ref_activations=None if reference is None else reference.activations,
        activation_kinds=() if reference is None else reference.activation_kinds,
        columns=layout.columns,
    )


def turn_dropout_off(model: nn.Module) -> None:
    """Set every dropout probability of the model to zero: of dropout layers, of modules that hand theirs to a function,
    and of those that read it from the configuration. These get a copy to read: the model's own is saved with it."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in _dropouts(module):
            setattr(module, name, 0.0)
    quiet: dict[int, PreTrainedConfig] = {}
    for module in causal_lm(model).modules():
        config = vars(module).get("config")
        if isinstance(config, PreTrainedConfig) and not isinstance(module, PreTrainedModel) and _dropouts(config):
            module.config = quiet.setdefault(id(config), copy(config))
            for name in _dropouts(module.config):
                setattr(module.config, name, 0.0)


def _dropouts(holder: object) -> list[str]:
    """The attributes that are dropout or layerdrop probabilities above zero."""
    return [name for name, value in vars(holder).items() if "drop" in name and isinstance(value, float) and value > 0]


def _layers(layout: Layout, layers: tuple[Tensor, ...], positions: Tensor, wanted: bool) -> Tensor | None:
    if not wanted:
        return None
    if len({layer.shape[-1] for layer in layers}) > 1:
        raise ValueError("the reference's layers have states of different sizes, which no mask over layers can read")
    return torch.stack([layout.scatter(layout.gather(layer, positions)) for layer in layers])
