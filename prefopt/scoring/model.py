"""PreferenceModel: policy, reference and objective as one module, whose forward is everything that a step does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from prefopt.objective import Objective, ObjectiveConfig, ObjectiveOutput
from prefopt.scoring.asked import asked_statistics
from prefopt.scoring.checks import is_finite, require_finite
from prefopt.scoring.chunked_loss import Group, groups, settled
from prefopt.scoring.compiled import compile_in_place
from prefopt.scoring.forward import ModelStates, causal_lm, run, token_batch, turn_dropout_off, within
from prefopt.scoring.layout_choice import LayoutChoice, Role
from prefopt.scoring.lm_head.buffer_pool import Workspace
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.token_statistics import DEFAULT_BUDGET, TokenStatistics, tokens_within
from prefopt.scoring.reference.cache import ReferenceCache, response_keys
from prefopt.scoring.reference.unloaded import ReleasedReference, opened, with_logps
from prefopt.scoring.rows.layout import Layout
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
        self.released: ReleasedReference | None = None
        if isinstance(objective, ObjectiveConfig):
            config = causal_lm(self.reference_model).config.get_text_config()  # masks read the reference's states
            objective = Objective(objective, num_layers=config.num_hidden_layers, hidden_size=config.hidden_size)
        self.objective = objective
        self.logits_budget = logits_budget
        self._workspace = Workspace()
        self.shared_prefix = shared_prefix
        self._choice = LayoutChoice()
        self.reference_cache = reference_cache
        self.cache: ReferenceCache | None = None
        """What is in `reference_cache`; opened with the first batch."""
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
    def _no_split_modules(self) -> list[str]:
        """The models' blocks, by class: what accelerate's FSDP gives a shard of its own, unless it is told."""
        models = (self.policy, self.reference or self.policy)
        return sorted({name for model in models for name in causal_lm(model)._no_split_modules or ()})

    @property
    def reference_free(self) -> bool:
        """Whether the objective asks no reference."""
        return self.objective.config.reference_free

    @property
    def plain(self) -> bool:
        """Whether the models are called as anyone would call them, because the gathered head did not agree."""
        return bool(self._choice.plain)

    @property
    def shares_prefix(self) -> bool:
        """Whether pairs share a row, in batches where that is less work. Known once a batch has been scored."""
        return self._choice.shares

    def forward(self, batch: PreferenceBatch) -> ObjectiveOutput:
        """Score the batch and apply the objective. Raises NonFiniteError on NaN or infinity."""
        layout = self._layout(batch)
        output = self._output(layout, batch)
        if layout.prefix is not None and not is_finite(output):
            # NaN in one response reaches the others of its row; in rows of their own they can be told apart.
            output = self._output(Layout.of(batch), batch)
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

    def release_reference(self, reload: Callable[[], nn.Module] | None = None) -> None:
        """Let go of the reference, of which the cache holds what it said; of its weights the head alone is kept, where
        the objective reads whole distributions.

        reload  loads the reference again, should a response come that is not in the cache: StoreError without it.
        Raises ValueError where there is no reference of its own to let go, or no cache that a batch has opened.
        """
        if self.reference is None or self.cache is None:
            raise ValueError("release_reference needs a reference of its own weights, and a cache that was filled")
        self.released = ReleasedReference(self.reference, self.cache, reload)
        self.reference = None

    def _score(self, layout: Layout, batch: PreferenceBatch) -> TokenBatch:
        reference = None if self.reference_free else self._reference_states(layout, batch)

        def statistics_of_policy() -> TokenStatistics:
            hidden = run(self.policy, layout, plain=self.plain).computed
            return self._statistics(hidden, self._policy_head, reference, layout.labels)

        statistics = within(self.policy, statistics_of_policy, plain=self.plain)
        return token_batch(layout, statistics, reference)

    def _output(self, layout: Layout, batch: PreferenceBatch) -> ObjectiveOutput:
        """What the objective says, by way of groups of pairs where the logits of all would exceed the budget."""
        parts = self._groups(layout)
        if len(parts) < 2:
            output: ObjectiveOutput = self.objective(self._score(layout, batch))
            return replace(output, losses=output.losses.detach())
        reference = None if self.reference_free else self._reference_states(layout, batch)

        def output_of_policy() -> ObjectiveOutput:
            hidden, head = run(self.policy, layout, plain=False).computed, self._policy_head
            assert head is not None
            return settled(self.objective, parts, hidden, head, reference, layout, self._statistics)

        return within(self.policy, output_of_policy, plain=False)

    def _groups(self, layout: Layout) -> list[Group]:
        """The pairs that go through head and objective together; none where they cannot be taken apart."""
        if self.plain or not torch.is_grad_enabled() or not self.objective.takes_pairs_apart:
            return []
        weight = causal_lm(self.policy).get_output_embeddings().weight
        return groups(layout.mask, tokens_within(self.logits_budget, weight, self.objective.config.exact_divergence))

    def compile(self, *, backend: str | Callable[..., Any] = "inductor", mode: str | None = None) -> None:
        """Compile the models and the objective with torch.compile, each on its own: for every length at once, so that
        no batch makes them be compiled again. What depends on the data (rows, gathering, chunks) stays as it is.

        backend, mode  as in torch.compile. The comparison on the first batch is with models that are not compiled.
        """
        models = [causal_lm(model).base_model for model in (self.policy, self.reference) if model is not None]
        for part in (*models, self.objective):
            compile_in_place(part, backend=backend, mode=mode)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the policy's activations in backward; the reference keeps none in any case."""
        causal_lm(self.policy).activation_checkpointing_enable(**kwargs)

    def _statistics(
        self,
        hidden: Tensor,
        head: Head | None,
        reference: ModelStates | None,
        labels: Tensor,
        into: HeadGradient | None = None,
    ) -> TokenStatistics:
        asked = reference is not None and reference.final is not None
        return asked_statistics(
            self.objective.config,
            hidden,
            head,
            reference,
            self._reference_head if asked and head is not None else None,
            labels,
            budget=self.logits_budget,
            workspace=self._workspace,
            into=into,
        )

    @property
    def _policy_head(self) -> Head | None:
        """None where the model is called plainly."""
        return None if self.plain else Head.of(causal_lm(self.policy))

    @property
    def reference_model(self) -> nn.Module:
        """The module that is the reference: the policy itself, with its adapter off, where there is no other. One that
        was released is loaded again.
        """
        if self.released is not None:
            self.reference = self.released.bring_back(causal_lm(self.policy).device)
            self.released = None
        return self.policy if self.reference is None else self.reference

    @property
    def _reference_head(self) -> Head:
        return Head.of(causal_lm(self.reference_model)) if self.released is None else self.released.head

    def _as_reference(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.reference is not None else self.policy.disable_adapter()  # type: ignore[operator]

    def _reference_states(self, layout: Layout, batch: PreferenceBatch) -> ModelStates:
        """What the reference says: from the cache, where that is."""
        if self.reference_cache is None:
            return self._run_reference(layout)
        keys = response_keys(batch)
        opening = self.cache is None
        config = self.objective.config
        cache = self.cache or opened(self.reference_cache, self.reference_model, config, plain=self.plain)
        if opening or not all(key in cache for key in keys):
            states = self._ask(layout)
            if layout.prefix is not None and not bool(states.computed.isfinite().all()):
                layout = Layout.of(batch)  # what is kept of a response must not be its neighbour's NaN
                states = self._ask(layout)
            if opening:
                cache.check(keys, layout, states)
            cache.put(keys, layout, states)
        self.cache = cache
        return cache.read(keys, layout)

    def _ask(self, layout: Layout) -> ModelStates:
        """What the cache is to hold."""
        found = self._run_reference(layout)  # which loads it again, where it was released
        head = None if self.plain else self._reference_head
        return with_logps(found, head, layout.labels, self._workspace)

    @torch.no_grad()
    def _run_reference(self, layout: Layout) -> ModelStates:
        config = self.objective.config
        signals, kinds = config.requires, config.activation_kinds
        model = self.reference_model
        with self._as_reference():
            return within(
                model,
                lambda: run(model, layout, plain=self.plain, signals=signals, activation_kinds=kinds),
                plain=self.plain,
            )

    def _layout(self, batch: PreferenceBatch) -> Layout:
        if self._choice.plain is None:
            roles = [Role("policy", self.policy, nullcontext())]
            if not self.reference_free:
                roles.append(Role("reference", self.reference_model, self._as_reference()))
            self._choice.prove(batch, roles, share=self.shared_prefix)
        if not self.shared_prefix:
            return Layout.of(batch)
        return self._choice.of(batch, self.config.get_text_config().hidden_size)
