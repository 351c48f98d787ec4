"""The reference's states on disk, keyed by all that determines them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from array import array
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor, nn

from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring.adapters import reference_configs
from prefopt.scoring.forward import ModelStates, causal_lm
from prefopt.scoring.fsdp import full_tensor
from prefopt.scoring.reference.tensor_store import StoreError, TensorStore
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.rotary import longest_unscaled_row
from prefopt.signals import SIGNALS
from prefopt.tokens import PreferenceBatch

_HIDDEN, _LOGPS = "final", "logps"
"""Names of fields in the store."""

_TOLERANCES = MappingProxyType({torch.float64: 1e-8, torch.float32: 1e-3})
_HALF_TOLERANCE = 0.1
"""Largest difference, relative to the largest number in the response, that rounding explains where a model computes in
a dtype."""

# Fields of a configuration that do not change what a model computes.
_NO_MATHEMATICS = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"}

# The names that an adapter's wrappers give to the layers that they wrap.
_WRAPPED = re.compile(r"\b(base_layer|original_module)\.")


@final
class ReferenceCache:
    """The reference's states for one objective, in the tensor store FOLDER/FINGERPRINT.

    Per response token it holds the signals that the objective requires, and the log-probability, or, for an exact
    divergence, the last hidden state, from which the head computes the distribution. The key is that of the token ids
    of prompt and response, so that other objectives, seeds and batches find an entry too.
    """

    def __init__(self, folder: str | Path, reference: nn.Module, config: ObjectiveConfig, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.folder = Path(folder) / fingerprint(reference, dtype)
        self.field = _LOGPS if config.exact_divergence is None else _HIDDEN
        kinds = "-".join(["", *sorted(config.activation_kinds)])
        cached = [signal for signal, spec in SIGNALS.items() if spec.cached and signal in config.requires]
        self.signals = {f"{signal}{kinds}": signal for signal in cached}
        self.activation_kinds: tuple[str, ...] = ()
        """Of the sites; known after `put`."""
        self.store = TensorStore(self.folder, [self.field, *self.signals])

    def __contains__(self, key: str) -> bool:
        return key in self.store

    @property
    def keeps_distributions(self) -> bool:
        """Whether it holds last hidden states instead of log-probabilities."""
        return self.field is _HIDDEN

    def put(self, keys: Sequence[str], layout: Layout, states: ModelStates) -> None:
        """Add the states of a layout's responses, but for those that are there."""
        self.activation_kinds = states.activation_kinds
        fields = self._by_response(layout, states)
        for row, key in enumerate(keys):
            if key not in self.store:
                self.store.add(key, {field: values[row] for field, values in fields.items()})

    def check(self, keys: Sequence[str], layout: Layout, states: ModelStates) -> None:
        """Raise StoreError where the entries of these responses are not the states."""
        fields = self._by_response(layout, states)
        # What is computed in bfloat16 may be kept in float32: log-probabilities, and under autocast hidden states.
        tolerance = _TOLERANCES.get(self.dtype, _HALF_TOLERANCE)
        for row, key in enumerate(keys):
            for field, cached in self.store.read([key]).items() if key in self.store else ():
                now = fields[field][row].to(cached)
                slack = tolerance * float(now.abs().max())
                gap = float((now - cached).abs().max()) if now.shape == cached.shape else math.inf
                if not gap <= slack:
                    raise StoreError(
                        f"{self.folder}: what is kept of the reference is not what it says now ({field} differs by up "
                        f"to {gap:.2g}); delete the folder, or name another one"
                    )

    def _by_response(self, layout: Layout, states: ModelStates) -> dict[str, Sequence[Tensor]]:
        """The fields of the store, a tensor [length, ...] for each response."""
        final = states.last_hidden_state if self.keeps_distributions else states.logps
        assert final is not None
        values = {self.field: final}
        for field, signal in self.signals.items():
            stacked, signals = SIGNALS[signal].row_axis, states.signals[signal]
            values[field] = (signals.movedim(0, 2) if stacked else signals)[layout.mask]
        lengths = layout.mask.sum(-1).tolist()
        return {field: torch.split(values[field], lengths) for field in self.store.fields}

    def read(self, keys: Sequence[str], layout: Layout) -> ModelStates:
        """The states of a layout's responses. Raises KeyError where one is not there."""
        fields = {field: values.to(layout.mask.device) for field, values in self.store.read(keys).items()}
        signals = {signal: layout.scatter(fields[field]) for field, signal in self.signals.items()}
        return ModelStates(
            last_hidden_state=fields.get(_HIDDEN),
            logps=fields.get(_LOGPS),
            signals={s: values.movedim(2, 0) if SIGNALS[s].row_axis else values for s, values in signals.items()},
            activation_kinds=self.activation_kinds,
        )


def open_cache(
    folder: str | Path, reference: nn.Module, config: ObjectiveConfig, *, plain_forward: bool
) -> ReferenceCache:
    """The reference's cache in a folder. Raises ValueError where it would have to hold last hidden states, which the
    plain forward pass does not give."""
    lm = causal_lm(reference)
    device = lm.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else lm.dtype
    cache = ReferenceCache(folder, reference, config, dtype)
    if plain_forward and cache.keeps_distributions:
        raise ValueError(
            "reference_cache: this objective needs the reference's whole distribution, of which the cache keeps the "
            "hidden states, but the model is called plainly (see the warning above); leave the cache out"
        )
    return cache


def response_keys(batch: PreferenceBatch) -> list[str]:
    """The keys of a batch's N responses."""
    prompts = [ids[mask].tolist() for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    sides = (
        (batch.chosen_ids, batch.chosen_mask, batch.chosen_scored),
        (batch.rejected_ids, batch.rejected_mask, batch.rejected_scored),
    )
    return [
        response_key(prompt, ids[mask].tolist(), (~scored[mask]).nonzero().flatten().tolist())
        for all_ids, masks, scored_masks in sides
        for prompt, ids, mask, scored in zip(
            prompts, all_ids, masks, masks if scored_masks is None else scored_masks, strict=True
        )
    ]


def response_key(prompt_ids: Sequence[int], response_ids: Sequence[int], masked: Sequence[int] = ()) -> str:
    """The key of a response: a hash of its token ids and the prompt's, and of the positions that are not scored."""
    numbers = array("q", [len(prompt_ids), *prompt_ids, *response_ids])
    # A negative number, which no token has, parts the two, so that responses without such positions keep their keys.
    numbers.extend([-1, *masked] if masked else [])
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def fingerprint(reference: nn.Module, dtype: torch.dtype) -> str:
    """A hash of all that determines a reference's states, besides the tokens: its weights, its configuration, and the
    dtype in which it computes. Of a policy that is its own reference, without what trains.
    """
    lm = causal_lm(reference)
    digest = hashlib.sha256(str(dtype).encode())
    if longest_unscaled_row(lm) < math.inf:  # not the states of version 0.1, which depend on their batch
        digest.update(b"rotary embeddings at each row's length")
    config = {name: value for name, value in lm.config.to_dict().items() if name not in _NO_MATHEMATICS}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for config in reference_configs(reference):
        digest.update(json.dumps(config.to_dict(), sort_keys=True, default=str).encode())
    for name, tensor in _frozen_tensors(reference, lm):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(full_tensor(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def _frozen_tensors(reference: nn.Module, lm: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers of the reference, under the names that they have without an adapter."""
    adapted = reference is not lm
    parameters = dict(lm.named_parameters())
    if reference_configs(reference):  # a prompt's parameters are beside the model, not in it
        inside = {id(parameter) for parameter in parameters.values()}
        parameters |= {name: p for name, p in reference.named_parameters() if id(p) not in inside}
    frozen = [(n, p) for n, p in parameters.items() if not (adapted and p.requires_grad)]
    named = ((_WRAPPED.sub("", name), tensor) for name, tensor in [*frozen, *lm.named_buffers()])
    return sorted(named, key=itemgetter(0))
