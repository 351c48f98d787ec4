"""ReferenceScorer: the reference's states at response tokens, from its cache where there is one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring.adapters import as_reference
from prefopt.scoring.forward import ModelStates, causal_lm, in_fsdp_forward
from prefopt.scoring.fsdp import holds_in_any
from prefopt.scoring.input_gradient import states_and_gradients
from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.token_statistics import dense_statistics, token_statistics
from prefopt.scoring.proof import Role
from prefopt.scoring.reference.cache import ReferenceCache, open_cache, response_keys
from prefopt.scoring.reference.unloaded import UnloadedReference
from prefopt.scoring.rows.layout import Layout
from prefopt.tokens import PreferenceBatch


@final
class ReferenceScorer(nn.Module):
    """The reference of a PreferenceModel, and its cache.

    model         the reference; None where it is the policy with another adapter or none, or was unloaded
    unloaded      what is left of an unloaded reference
    cache_folder  None: no cache
    cache         the open cache; None before the first batch
    """

    def __init__(
        self,
        model: nn.Module | None,
        config: ObjectiveConfig,
        buffers: BufferPool,
        cache_folder: str | Path | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.unloaded: UnloadedReference | None = None
        self.config = config
        self._buffer_pool = buffers
        self.cache_folder = cache_folder
        self.cache: ReferenceCache | None = None

    def loaded(self, policy: nn.Module) -> nn.Module:
        """The module that is the reference: the policy, in `context`, where there is no other. An unloaded one is
        loaded again."""
        if self.unloaded is not None:
            self.model = self.unloaded.reload(causal_lm(policy).device)
            self.unloaded = None
        return policy if self.model is None else self.model

    def roles(self, policy: nn.Module, *, policy_alone: bool = False) -> list[Role]:
        """The policy and, where the objective needs one, the reference; an unloaded one is loaded again."""
        config = self.config
        roles = [Role("policy", policy, signals=config.policy_signals)]
        if not (config.reference_free or policy_alone):
            context = partial(self.context, policy)
            reference = self.loaded(policy)
            roles.append(Role("reference", reference, context, config.reference_signals, config.activation_kinds))
        return roles

    def context(self, policy: nn.Module) -> AbstractContextManager[Any]:
        """The context in which `loaded` is the reference (see `as_reference`, where it is the policy)."""
        return nullcontext() if self.model is not None else as_reference(policy)

    def head(self, policy: nn.Module) -> Head:
        """The reference's head, which an unloaded one still has."""
        return self.unloaded.head if self.unloaded is not None else Head.from_model(causal_lm(self.loaded(policy)))

    def unload(self, reload: Callable[[], nn.Module] | None) -> None:
        """Drop the reference, whose states are in the cache. Raises ValueError without either."""
        if self.model is None or self.cache is None:
            raise ValueError("release_reference needs a reference of its own weights, and a cache that was filled")
        self.unloaded = UnloadedReference(self.model, self.cache, reload)
        self.model = None

    def states(self, policy: nn.Module, layout: Layout, batch: PreferenceBatch, *, plain_forward: bool) -> ModelStates:
        """The reference's states at the response tokens of a batch. Those that the cache lacks are added to it.

        Raises StoreError where, of the first batch, the cache holds other states than the reference has.
        """
        if self.cache_folder is None:
            return self._forward(policy, layout, plain_forward)
        keys = response_keys(batch)
        is_first = self.cache is None
        cache = self.cache or open_cache(
            self.cache_folder, self.loaded(policy), self.config, plain_forward=plain_forward
        )
        if self._any_process(policy, is_first or not all(key in cache for key in keys)):
            states = self._forward_with_logps(policy, layout, plain_forward)
            finite = layout.prefix is None or bool(states.hidden.isfinite().all())
            if self._any_process(policy, not finite):
                layout = Layout.two_rows(batch)  # lest the NaN of one response be cached for its neighbours
                states = self._forward_with_logps(policy, layout, plain_forward)
            if is_first:
                cache.check(keys, layout, states)
            cache.put(keys, layout, states)
        self.cache = cache
        return cache.read(keys, layout)

    def _any_process(self, policy: nn.Module, flag: bool) -> bool:
        """Whether the flag holds in any process with which this one runs the reference."""
        return flag if self.unloaded is not None else holds_in_any(self.loaded(policy), flag)

    @torch.no_grad()
    def _forward_with_logps(self, policy: nn.Module, layout: Layout, plain_forward: bool) -> ModelStates:
        states, labels = self._forward(policy, layout, plain_forward), layout.labels
        if states.logits is not None:
            statistics = dense_statistics(states.logits, None, labels)
        else:
            head = self.head(policy)
            statistics = token_statistics(states.hidden, head, None, None, labels, buffers=self._buffer_pool)
        return replace(states, logps=statistics.logps)

    @torch.no_grad()
    def _forward(self, policy: nn.Module, layout: Layout, plain_forward: bool) -> ModelStates:
        model, config = self.loaded(policy), self.config

        def forward() -> ModelStates:
            return states_and_gradients(
                model,
                layout,
                plain_forward=plain_forward,
                signals=config.reference_signals,
                activation_kinds=config.activation_kinds,
            )

        with self.context(policy):
            return in_fsdp_forward(model, forward, plain_forward=plain_forward)
