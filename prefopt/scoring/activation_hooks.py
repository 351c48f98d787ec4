"""Mean activations of the reference at sites in its modules, by forward hooks.

A site is an input or output of modules that match by name. A kind is a site's name, "mlp", for the mean of its
features, or a name and another reduction, "mlp.abs". Tensors that are no module's input or output, such as queries and
keys after rotary embedding, are out of reach of hooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import wide

_LOGITS = "logits"
"""The one site that is not a module's: it is computed from the head (see `logit_activations`)."""


def _mean(states: Tensor) -> Tensor:
    return states.mean(-1)


def _mean_of_absolutes(states: Tensor) -> Tensor:
    return states.abs().mean(-1)


def _mean_of_absolute_logits(head: Head, hidden: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([_mean_of_absolutes(head.logits(chunk)) for chunk in torch.split(hidden, 128)])


_REDUCTIONS = {"": (_mean, Head.mean_logits), "abs": (_mean_of_absolutes, _mean_of_absolute_logits)}
"""Of features [..., F] -> [...], and of the logits of (head, hidden [M, H]) -> [M]."""

Split = Callable[[Tensor, PreTrainedConfig], Sequence[Tensor]]
"""(states [R, S, features], the model's configuration) -> the parts that are sites of their own."""


def _unsplit(states: Tensor, config: PreTrainedConfig) -> Sequence[Tensor]:
    return (states,)


def _query_first(states: Tensor, config: PreTrainedConfig) -> Sequence[Tensor]:
    """Fused q, k, v with all queries first, as in GPT-2 and, with fewer keys than queries, GPTBigCode and Phi-3."""
    queries = config.hidden_size
    keys = (states.shape[-1] - queries) // 2
    return states[..., :queries], states[..., queries:-keys], states[..., -keys:]


def _by_head(states: Tensor, config: PreTrainedConfig) -> Sequence[Tensor]:
    """Fused q, k, v, interleaved head by head, as in GPT-NeoX; with one key for all heads, queries first, as in
    Falcon."""
    hidden_size, heads = config.hidden_size, config.num_attention_heads
    if states.shape[-1] == hidden_size + 2 * (hidden_size // heads):
        return _query_first(states, config)
    if states.shape[-1] != 3 * hidden_size:
        raise ValueError(
            f"activation sites: how a fused projection of {states.shape[-1]} features for {heads} heads of a model of "
            f"size {hidden_size} splits into queries, keys and values is not known. Leave 'attn' out of `sites`."
        )
    return states.view(*states.shape[:-1], heads, 3, -1).unbind(-2)


@final
@dataclass(frozen=True)
class Site:
    """The inputs or outputs of modules, by their names within the backbone.

    Of the alternative `patterns`, the first that matches any module is used: a name may mean one thing in one
    architecture and another elsewhere.
    """

    kind: Literal["mlp", "attn", "resid"]
    patterns: tuple[str, ...]
    tap: Literal["input", "output"] = "output"
    split: Split = _unsplit


SITES = (
    Site("mlp", (r"(^|.*\.)\d+\.((mlp|ffn)\.)?(act|act_fn|activation|activation_fn|gelu_impl)",)),
    Site("attn", (r".*\.(q_proj|k_proj|v_proj)",)),
    Site("attn", (r".*\.(c_attn|qkv_proj)",), split=_query_first),
    Site("attn", (r".*\.query_key_value",), split=_by_head),
    Site("attn", (r".*\.(attn|self_attn|attention)\.(c_proj|out_proj|o_proj|dense)",)),
    Site("resid", (r"(^|.*\.)(h|layers|blocks)\.\d+",), tap="input"),
    Site("resid", (r"(^|.*\.)(h|layers|blocks)\.\d+",)),
    Site("resid", (r".*\.pre_feedforward_layernorm", r".*\.(ln_2|post_attention_layernorm)"), tap="input"),
    Site("resid", (r".*\.\d+\.(ln_\d|\w*layer_?norm)",)),
    Site("resid", (r"(decoder\.)?(wte|embed_in|embed_tokens)",)),
    Site("resid", (r"(decoder\.)?(ln_f|norm|final_layer_?norm)",)),
)


Recorded = dict[tuple[str, str], list[Tensor]]
"""Activations [R, S] by kind and module, in model order; of a module that runs more than once, as one that layers
share, those of all its calls in their order. An empty list until the module runs."""


@contextmanager
def record(
    backbone: nn.Module, kinds: Iterable[str], shape: torch.Size, config: PreTrainedConfig
) -> Iterator[Recorded]:
    """Record the sites of these kinds while the block runs the backbone on rows of shape [R, S].

    Raises ValueError where a kind matches no module, or names no reduction, or where a module's states are not those of
    single positions, and, at the end of the block, RuntimeError where a module never ran.
    """
    modules = dict(backbone.named_modules())
    sites: Recorded = {}
    with ExitStack() as stack:
        for kind in sorted(set(kinds)):
            site_name, (reduction, _) = _parse(kind)
            if site_name == _LOGITS:
                continue
            matches = [(site, name) for site in SITES if site.kind == site_name for name in _matching(site, modules)]
            if not matches:
                names = ", ".join(sorted({re.sub(r"[0-9]+", "*", name) for name in modules if name}))
                raise ValueError(
                    f"activation sites: no module of {type(backbone).__name__} is known to be of kind {kind!r}; leave "
                    f"{site_name!r} out of `sites`. Its modules: {names}"
                )
            for site, name in matches:
                label = f"{name} ({site.tap})"
                activations = sites.setdefault((kind, label), [])
                reduce = partial(_reduce, kind, label, site.split, reduction, config, shape)
                stack.callback(_register(modules[name], site.tap, activations, reduce).remove)
        yield sites
    if silent := [name for (_, name), activations in sites.items() if not activations]:
        raise RuntimeError(
            f"activation sites: {len(silent)} of {len(sites)} modules never ran in the reference's forward pass, "
            f"{silent[0]!r} first; its modelling code bypasses them. Name other kinds in `sites`."
        )


def logit_activations(kinds: Iterable[str], final: Tensor, head: Head | None) -> Iterator[tuple[str, Tensor]]:
    """(kind, [M]) of the logits' kinds, from last hidden states [M, H] and the head, or from logits [M, V]."""
    for kind in sorted(set(kinds)):
        site_name, (of_states, of_logits) = _parse(kind)
        if site_name == _LOGITS:
            yield kind, of_states(final.to(wide(final.dtype))) if head is None else of_logits(head, final)


def _parse(kind: str) -> tuple[str, tuple[Callable[[Tensor], Tensor], Callable[[Head, Tensor], Tensor]]]:
    """A site's name and its reductions."""
    site, _, suffix = kind.partition(".")
    if suffix not in _REDUCTIONS:
        kinds = ", ".join(repr(f"{site}.{name}" if name else site) for name in _REDUCTIONS)
        raise ValueError(f"activation sites: no kind {kind!r}; of {site!r} there are {kinds}")
    return site, _REDUCTIONS[suffix]


def _matching(site: Site, modules: dict[str, nn.Module]) -> list[str]:
    for pattern in site.patterns:
        if names := [name for name in modules if re.fullmatch(pattern, name)]:
            return names
    return []


def _register(
    module: nn.Module, tap: str, activations: list[Tensor], reduce: Callable[[Tensor], list[Tensor]]
) -> torch.utils.hooks.RemovableHandle:
    def record_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        activations.extend(reduce(args[0] if args else kwargs["hidden_states"]))

    def record_output(_: nn.Module, args: Any, output: Any) -> None:
        activations.extend(reduce(output if isinstance(output, Tensor) else output[0]))

    if tap == "input":
        return module.register_forward_pre_hook(record_input, with_kwargs=True)
    return module.register_forward_hook(record_output)


def _reduce(
    kind: str,
    label: str,
    split: Split,
    over_features: Callable[[Tensor], Tensor],
    config: PreTrainedConfig,
    shape: torch.Size,
    states: Tensor,
) -> list[Tensor]:
    # Some models flatten rows and positions on their way, or have several streams at a position, [R, S, streams, H].
    # With the streams first, or in experts, which see some positions twice, whose features these are is not known.
    is_flat, has_positions = states.shape[:-1] == (shape.numel(),), states.shape[:2] == shape
    if not is_flat and not (has_positions and (states.ndim == 3 or states.shape[1:3] != shape)):
        raise ValueError(
            f"activation sites: {label!r} has states of shape {list(states.shape)}, not {list(shape)} rows and "
            f"positions, then features; leave {kind.partition('.')[0]!r} out of `sites`"
        )
    states = states.reshape(*shape, -1)
    return [over_features(part.to(wide(part.dtype)).flatten(2)) for part in split(states, config)]
