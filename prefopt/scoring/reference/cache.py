"""What the reference says of responses, kept on disk under exactly what determines it."""

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

from prefopt.component import Signal
from prefopt.objective import ObjectiveConfig
from prefopt.scoring.forward import ModelStates, causal_lm
from prefopt.scoring.fsdp import whole
from prefopt.scoring.reference.tensor_store import StoreError, TensorStore
from prefopt.scoring.rows.layout import Layout
from prefopt.tokens import PreferenceBatch

__all__ = ["ReferenceCache", "fingerprint", "response_key", "response_keys"]

_FINAL, _LOGPS = "final", "logps"

_STATES = MappingProxyType(
    {Signal.REF_HIDDEN_STATES: "hidden_states", Signal.REF_TOKEN_STATES: "token_states"}
    | {Signal.REF_EMBEDDINGS: "embeddings", Signal.REF_ACTIVATIONS: "activations"}
)
"""Signals, and where ModelStates has them: tensors [.., N, T, ...] but for the first axis."""

_TOLERANCES = MappingProxyType({torch.float64: 1e-8, torch.float32: 1e-3})
_HALF_TOLERANCE = 0.1
"""Largest difference, of the largest number in the response, that rounding explains at each precision."""

# What a configuration says of where a model came from, and not of what it computes.
_NO_MATHEMATICS = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"}

# How an adapter's wrappers call the layers that they wrap.
_WRAPPED = re.compile(r"\b(base_layer|original_module)\.")


@final
class ReferenceCache:
    """The reference's answers for one objective: FOLDER/FINGERPRINT, a shared store of tensors.

    For each response token it keeps what the objective reads: the log-probability alone, or, where it measures an exact
    divergence, the final hidden state, from which the head makes the whole distribution again; and its signals. An
    entry is found by the token ids of prompt and response, so other objectives, seeds and batches find it too.
    """

    def __init__(self, folder: str | Path, reference: nn.Module, config: ObjectiveConfig, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.folder = Path(folder) / fingerprint(reference, dtype)
        term = config.divergence
        self.field = _LOGPS if term is None or term.measure.sampled else _FINAL
        kinds = "-".join(["", *sorted(config.activation_kinds)])
        self.signals = {f"{signal}{kinds}": name for signal, name in _STATES.items() if signal in config.requires}
        self.activation_kinds: tuple[str, ...] = ()
        """Of the sites; known once the reference has been run."""
        self.store = TensorStore(self.folder, [self.field, *self.signals])

    def __contains__(self, key: str) -> bool:
        return key in self.store

    @property
    def keeps_distributions(self) -> bool:
        """Whether it keeps final hidden states, and not log-probabilities alone."""
        return self.field is _FINAL

    def put(self, keys: Sequence[str], layout: Layout, states: ModelStates) -> None:
        """Keep what the reference said of the responses of a layout, where it is not here yet."""
        self.activation_kinds = states.activation_kinds
        parts = self._parts(layout, states)
        for row, key in enumerate(keys):
            if key not in self.store:
                self.store.add(key, {field: part[row] for field, part in parts.items()})

    def check(self, keys: Sequence[str], layout: Layout, states: ModelStates) -> None:
        """Raise StoreError where what is kept of these responses is not what the reference says now."""
        parts = self._parts(layout, states)
        for row, key in enumerate(keys):
            for field, kept in self.store.read([key]).items() if key in self.store else ():
                now = parts[field][row].to(kept)
                slack = _TOLERANCES.get(kept.dtype, _HALF_TOLERANCE) * float(now.abs().max())
                gap = float((now - kept).abs().max()) if now.shape == kept.shape else math.inf
                if not gap <= slack:
                    raise StoreError(
                        f"{self.folder}: what is kept of the reference is not what it says now ({field} differs by up "
                        f"to {gap:.2g}); delete the folder, or name another one"
                    )

    def _parts(self, layout: Layout, states: ModelStates) -> dict[str, Sequence[Tensor]]:
        """The fields of each response."""
        assert states.logps is not None
        tokens = {_FINAL: states.computed, _LOGPS: states.logps}
        tokens |= {field: getattr(states, name).movedim(0, 2)[layout.mask] for field, name in self.signals.items()}
        lengths = layout.mask.sum(-1).tolist()
        return {field: torch.split(tokens[field], lengths) for field in self.store.fields}

    def read(self, keys: Sequence[str], layout: Layout) -> ModelStates:
        """What the reference said of the responses of a layout. Raises KeyError where it was not asked."""
        found = {field: values.to(layout.mask.device) for field, values in self.store.read(keys).items()}
        signals = {name: layout.scatter(found[field]).movedim(2, 0) for field, name in self.signals.items()}
        return ModelStates(
            final=found.get(_FINAL), logps=found.get(_LOGPS), activation_kinds=self.activation_kinds, **signals
        )


def response_keys(batch: PreferenceBatch) -> list[str]:
    """A key for each of the N responses of a batch, chosen first."""
    prompts = [ids[mask].tolist() for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    sides = ((batch.chosen_ids, batch.chosen_mask), (batch.rejected_ids, batch.rejected_mask))
    return [
        response_key(prompt, ids[mask].tolist())
        for all_ids, masks in sides
        for prompt, ids, mask in zip(prompts, all_ids, masks, strict=True)
    ]


def response_key(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> str:
    """The key of a response: of its token ids and the prompt's, as the models read them."""
    return hashlib.sha256(array("q", [len(prompt_ids), *prompt_ids, *response_ids]).tobytes()).hexdigest()


def fingerprint(reference: nn.Module, dtype: torch.dtype) -> str:
    """A name for all that determines what a reference says, besides the tokens: its weights, its configuration, and
    `dtype`, the precision in which it computes.

    Of a policy with an adapter, which is its own reference with the adapter off, what trains is left out.
    """
    lm = causal_lm(reference)
    digest = hashlib.sha256(str(dtype).encode())
    config = {name: value for name, value in lm.config.to_dict().items() if name not in _NO_MATHEMATICS}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in _fixed(reference, lm):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(whole(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def _fixed(reference: nn.Module, lm: nn.Module) -> list[tuple[str, Tensor]]:
    """What the reference computes with, under the names that it has without an adapter."""
    adapted = reference is not lm
    own = [(n, p) for n, p in lm.named_parameters() if not (adapted and p.requires_grad)]
    return sorted(((_WRAPPED.sub("", name), tensor) for name, tensor in [*own, *lm.named_buffers()]), key=itemgetter(0))
