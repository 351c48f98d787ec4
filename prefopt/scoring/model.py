"""PreferenceModel: policy, reference and objective as one module, whose forward is everything that a step does."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from prefopt.component import Signal
from prefopt.objective import Objective, ObjectiveConfig, ObjectiveOutput
from prefopt.scoring.backbone import ModelStates, causal_lm, run, turn_dropout_off
from prefopt.scoring.cached import ReferenceCache, response_keys
from prefopt.scoring.checks import disagreement, is_finite, require_finite
from prefopt.scoring.head import Head
from prefopt.scoring.layout import Layout
from prefopt.scoring.packing import two_in_a_row
from prefopt.scoring.sharing import Limits, layout_of
from prefopt.scoring.statistics import DEFAULT_BUDGET, TokenStatistics, Workspace, dense_statistics, token_statistics
from prefopt.tokens import PreferenceBatch, TokenBatch

__all__ = ["PreferenceModel"]


@final
class PreferenceModel(nn.Module):
    """(PreferenceBatch) -> ObjectiveOutput, for anyone's own training loop and for PreferenceTrainer.

    policy, reference  Hugging Face causal LMs. Without a reference, a policy with a PEFT adapter is its own with the
                       adapter off; an objective that is reference-free needs none; any other raises ValueError. The
                       reference is frozen. Dropout is turned off in both, so that they agree while their weights do.
    objective          a configuration, or an Objective that was loaded
    logits_budget      bytes of logits that may be kept for backward; the rest are computed again
    shared_prefix      whether the two responses of a pair may share a row, whose prompt is then computed once, with
                       other pairs after it
    reference_cache    a folder to keep what the reference says in, so that it is asked once about each response

    The first batch is also run through the plain model call. Where sharing a row disagrees with it, a warning says so
    and each response has a row of its own from then on. Where the gathered head disagrees too, or is not a plain
    linear layer, a warning says so and the plain call is used.
    """

    def __init__(
        self,
        policy: nn.Module,
        reference: nn.Module | None = None,
        objective: ObjectiveConfig | Objective | None = None,
        *,
        logits_budget: int = DEFAULT_BUDGET,
        shared_prefix: bool = True,
        reference_cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        if objective is None:
            raise ValueError("an objective is needed, such as prefopt.zoo.dpo()")
        self.policy = policy
        self.reference = reference
        if isinstance(objective, ObjectiveConfig):
            config = causal_lm(self.reference_model).config.get_text_config()  # masks read the reference's states
            objective = Objective(objective, num_layers=config.num_hidden_layers, hidden_size=config.hidden_size)
        self.objective = objective
        self.logits_budget = logits_budget
        self._workspace = Workspace()
        self.shared_prefix = shared_prefix
        self.reference_cache = reference_cache
        self.cache: ReferenceCache | None = None
        """What is in `reference_cache`; opened with the first batch."""
        self._plain: bool | None = None
        self._shares = False
        self._limits = Limits(reach=0, room=0)
        if reference is None and not self.reference_free and not hasattr(policy, "disable_adapter"):
            raise ValueError(
                "this objective needs a reference: pass one, or a policy with a PEFT adapter, whose base is then the "
                "reference"
            )
        turn_dropout_off(policy)
        if reference is not None:
            turn_dropout_off(reference)
            reference.requires_grad_(False)

    @property
    def config(self) -> PreTrainedConfig:
        """The policy's configuration."""
        return causal_lm(self.policy).config

    @property
    def reference_free(self) -> bool:
        """Whether the objective asks no reference."""
        return self.objective.config.reference_free

    @property
    def plain(self) -> bool:
        """Whether the models are called as anyone would call them, because the gathered head did not agree."""
        return bool(self._plain)

    @property
    def shares_prefix(self) -> bool:
        """Whether pairs share a row, in batches where that is less work. Known once a batch has been scored."""
        return self._shares

    def forward(self, batch: PreferenceBatch) -> ObjectiveOutput:
        """Score the batch and apply the objective. Raises NonFiniteError on NaN or infinity."""
        layout = self._layout(batch)
        output: ObjectiveOutput = self.objective(self._score(layout, batch))
        if layout.prefix is not None and not is_finite(output):
            # NaN in one response reaches the others of its row; in rows of their own they can be told apart.
            output = self.objective(self._score(Layout.of(batch), batch))
        require_finite(output, batch)
        return output

    def score(self, batch: PreferenceBatch) -> TokenBatch:
        """What both models say about every response token, with the signals that the objective requires."""
        return self._score(self._layout(batch), batch)

    def ask_reference(self, batch: PreferenceBatch) -> None:
        """Have the cache hold what the reference says of the batch. Raises StoreError where it holds something else
        of the first batch than the reference says.
        """
        self._reference_states(self._layout(batch), batch)

    def _score(self, layout: Layout, batch: PreferenceBatch) -> TokenBatch:
        reference = None if self.reference_free else self._reference_states(layout, batch)
        policy = run(self.policy, layout, plain=self.plain)
        statistics = self._statistics(policy, reference, layout.labels)
        return TokenBatch(
            logps=layout.scatter(statistics.logps),
            ref_logps=layout.scatter(statistics.ref_logps),
            mask=layout.mask,
            token_ids=layout.token_ids,
            divergence=None if statistics.divergence is None else layout.scatter(statistics.divergence),
            log_collision=None if statistics.log_collision is None else layout.scatter(statistics.log_collision),
            ref_hidden_states=None if reference is None else reference.hidden_states,
            ref_token_states=None if reference is None else reference.token_states,
            ref_activations=None if reference is None else reference.activations,
            activation_kinds=() if reference is None else reference.activation_kinds,
            columns=layout.columns,
        )

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the policy's activations in backward; the reference keeps none in any case."""
        causal_lm(self.policy).activation_checkpointing_enable(**kwargs)

    def _statistics(self, policy: ModelStates, reference: ModelStates | None, labels: Tensor) -> TokenStatistics:
        config = self.objective.config
        measure = None if config.divergence is None else config.divergence.measure
        exact = None if measure is None or measure.sampled else measure
        log_collision = Signal.LOG_COLLISION in config.requires
        ref_final = None if reference is None else reference.final
        if self.plain:
            found = dense_statistics(policy.computed, ref_final, labels, exact, log_collision=log_collision)
        else:
            found = token_statistics(
                policy.computed,
                Head.of(causal_lm(self.policy)),
                ref_final,
                None if ref_final is None else Head.of(causal_lm(self.reference_model)),
                labels,
                exact,
                log_collision=log_collision,
                budget=self.logits_budget,
                workspace=self._workspace,
            )
        if reference is not None and reference.logps is not None:
            found = found._replace(ref_logps=reference.logps)
        if measure is not None and measure.sampled:
            found = found._replace(divergence=measure(found.logps, found.ref_logps))
        return found

    @property
    def reference_model(self) -> nn.Module:
        """The module that is the reference: the policy itself, with its adapter off, where there is no other."""
        return self.policy if self.reference is None else self.reference

    def _as_reference(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.reference is not None else self.policy.disable_adapter()  # type: ignore[operator]

    def _reference_states(self, layout: Layout, batch: PreferenceBatch) -> ModelStates:
        """What the reference says: from the cache, where that is."""
        if self.reference_cache is None:
            return self._run_reference(layout)
        keys = response_keys(batch)
        opening = self.cache is None
        cache = self.cache or self._opened(self.reference_cache)
        if opening or not all(key in cache for key in keys):
            states = self._with_logps(self._run_reference(layout), layout.labels)
            if layout.prefix is not None and not bool(states.computed.isfinite().all()):
                layout = Layout.of(batch)  # what is kept of a response must not be its neighbour's NaN
                states = self._with_logps(self._run_reference(layout), layout.labels)
            if opening:
                cache.check(keys, layout, states)
            cache.put(keys, layout, states)
        self.cache = cache
        return cache.read(keys, layout)

    def _opened(self, folder: str | Path) -> ReferenceCache:
        lm = causal_lm(self.reference_model)
        device = lm.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else lm.dtype
        cache = ReferenceCache(folder, self.reference_model, self.objective.config, dtype)
        if self.plain and cache.keeps_distributions:
            raise ValueError(
                "reference_cache: this objective needs the reference's whole distribution, of which the cache keeps "
                "the hidden states, but the model is called plainly (see the warning above); leave the cache out"
            )
        return cache

    @torch.no_grad()
    def _run_reference(self, layout: Layout) -> ModelStates:
        config = self.objective.config
        signals, kinds = config.requires, config.activation_kinds
        with self._as_reference():
            return run(self.reference_model, layout, plain=self.plain, signals=signals, activation_kinds=kinds)

    @torch.no_grad()
    def _with_logps(self, states: ModelStates, labels: Tensor) -> ModelStates:
        if self.plain:
            return replace(states, logps=dense_statistics(states.computed, None, labels).logps)
        head = Head.of(causal_lm(self.reference_model))
        found = token_statistics(states.computed, head, None, None, labels, workspace=self._workspace)
        return replace(states, logps=found.logps)

    def _layout(self, batch: PreferenceBatch) -> Layout:
        """The rows to run for this batch: shared ones where that is right and less work, otherwise two a pair."""
        if self._plain is None:
            self._prove(batch)
        if not (self.shared_prefix and self.shares_prefix):
            return Layout.of(batch)
        return layout_of(batch, self.config.get_text_config().hidden_size, self._limits)

    def _prove(self, batch: PreferenceBatch) -> None:
        """Decide what agrees with the plain call in all models, and say so where something does not.

        How many passes this takes depends on the models alone and not on the batch, so that processes which wait for
        each other in every pass may each have a batch of their own.
        """
        models: list[tuple[str, nn.Module, AbstractContextManager[Any]]] = [("policy", self.policy, nullcontext())]
        if not self.reference_free:
            models.append(("reference", self.reference_model, self._as_reference()))
        limits = Limits.of(causal_lm(model) for _, model, _ in models)
        places = two_in_a_row(batch.lengths.tolist(), limits.room)
        self._limits = limits if any(places.starts) else limits._replace(room=0)
        rows, shared = Layout.of(batch), Layout.shared(batch, places) if self.shared_prefix else None
        refusals = []
        for role, model, context in models:
            with context:
                found = disagreement(model, rows, shared)
            if found.head:
                _warn(f"{role}: {found.head}. Calling the models plainly", "slower and with whole logits")
                self._plain = True
                return
            if found.sharing:
                refusals.append(f"{role}: {found.sharing}")
        self._plain, self._shares = False, shared is not None and not refusals
        if refusals:
            _warn(f"{refusals[0]}. Giving each response a row of its own", "computing every prompt twice")


def _warn(finding: str, price: str) -> None:
    warnings.warn(f"{finding} from now on: right, but {price}.", stacklevel=4)
