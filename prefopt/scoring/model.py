"""PreferenceModel: policy, reference and objective as one module, whose forward is everything that a step computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from prefopt.objective import Objective, ObjectiveOutput
from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring.adapters import keep_draws_off
from prefopt.scoring.chunked_loss import chunked_loss, statistics_for_objective
from prefopt.scoring.compatibility import Compatibility, require_compatible, require_one_width
from prefopt.scoring.finite import all_finite, raise_non_finite
from prefopt.scoring.forward import (
    ModelStates,
    backbone,
    causal_lm,
    compile_in_place,
    in_fsdp_forward,
    token_batch,
    turn_dropout_off,
)
from prefopt.scoring.fsdp import tie, ties_of
from prefopt.scoring.input_gradient import states_and_gradients
from prefopt.scoring.layout_choice import LayoutChoice
from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.foreseen import Foreseen
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.token_statistics import TokenStatistics
from prefopt.scoring.mask_metrics import MaskMetrics
from prefopt.scoring.pair_groups import groups_for_budget
from prefopt.scoring.reference.cache import ReferenceCache
from prefopt.scoring.reference.scorer import ReferenceScorer
from prefopt.scoring.router_loss import RouterLoss, require_gradient
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.tied_embedding import states_and_head
from prefopt.scoring.zero import gather_in_steps
from prefopt.tokens import PreferenceBatch, TokenBatch


@final
class PreferenceModel(nn.Module):
    """(PreferenceBatch) -> ObjectiveOutput, for any training loop and for PreferenceTrainer.

    policy, reference  Hugging Face causal LMs. Without a reference, that of a policy with a PEFT adapter is the policy
                       with its frozen adapter "reference" on, where it has one, and with the adapter off otherwise; a
                       reference-free objective needs none; otherwise ValueError is raised. The reference is frozen.
                       Dropout and other noise are off in both, so that equal models agree
    objective          a configuration, or an Objective that was loaded
    logits_budget      bytes of logits that are saved for backward; None: 192 MiB on a CPU, by its memory elsewhere
    shared_prefix      whether the responses of a pair may share a row, in which the prompt is computed once
    max_length         tokens of the longest prompt and response to come, for which the fast path is proven at once;
                       None: those of the first batch, and again where a batch has longer ones
    reference_cache    folder of the cache of the reference's states, which are then computed once per response
    tokenizer          says which tokens have no word, for a learned mask's metrics; None: special tokens alone
    router_aux_loss_coef  weight of a mixture-of-experts policy's auxiliary loss; None: its configuration's, as in TRL

    On the first batch the models are compared with their plain forward pass, on made-up pairs and on the batch's; on
    one pair again at every 500th batch of training. Where shared rows disagree, each response has a row from then on;
    where the gathered head does too, or is not a plain linear layer, the plain forward pass is used. A warning says so,
    and that a learned mask fails in training (`MaskWatch`).

    >>> model = PreferenceModel(policy, reference, zoo.dpo())  # doctest: +SKIP
    >>> batch = PreferenceBatch.from_ids([[5, 6]], [[7, 8, 0]], [[9, 0]], pad_token_id=0)
    >>> model(batch).loss.backward()  # doctest: +SKIP
    """

    def __init__(
        self,
        policy: nn.Module,
        reference: nn.Module | None = None,
        objective: ObjectiveConfig | Objective | None = None,
        *,
        logits_budget: int | None = None,
        shared_prefix: bool = True,
        max_length: int | None = None,
        reference_cache: str | Path | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        router_aux_loss_coef: float | None = None,
    ) -> None:
        super().__init__()
        if objective is None:
            raise ValueError("an objective is needed, such as prefopt.zoo.dpo()")
        self.policy = policy
        if isinstance(objective, ObjectiveConfig):
            config = causal_lm(reference or policy).config.get_text_config()  # of the states that masks read
            objective = Objective(objective, num_layers=config.num_hidden_layers, hidden_size=config.hidden_size)
        self.objective = objective
        self.logits_budget = logits_budget
        self.shared_prefix = shared_prefix
        self.max_length = max_length
        self.raises_non_finite = True  # or the caller judges the output's numbers, by `all_finite`
        self._buffer_pool, self._choice = BufferPool(), LayoutChoice()
        self.reference_scorer = ReferenceScorer(reference, objective.config, self._buffer_pool, reference_cache)
        require_compatible(policy, reference, objective.config)
        require_one_width(policy, reference, objective)
        self.mask_metrics = MaskMetrics(objective, causal_lm(policy), tokenizer)
        self.router_loss = RouterLoss.from_model(causal_lm(policy), router_aux_loss_coef)
        self._compatibility = Compatibility()
        turn_dropout_off(policy)
        if reference is not None:
            turn_dropout_off(reference.requires_grad_(False))
        keep_draws_off(self)
        self._ties = ties_of(self)
        gather_in_steps(self, objective, [causal_lm(model) for model in (policy, reference) if model is not None])

    def train(self, mode: bool = True) -> Self:
        """nn.Module's, but what would draw at random in training mode stays in evaluation mode."""
        super().train(mode)
        keep_draws_off(self)
        self._compatibility.keep_noise_off(policy=self.policy, reference=self.reference or self.policy)
        return self

    @property
    def config(self) -> PreTrainedConfig:
        """The policy's configuration."""
        return causal_lm(self.policy).config

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The policy's `generate`, where callbacks look for it."""
        return self.policy.generate(*args, **kwargs)  # type: ignore[operator]

    @property
    def _no_split_modules(self) -> list[str]:
        """Classes of the models' blocks, which accelerate's FSDP wraps by default."""
        models = (causal_lm(self.policy), causal_lm(self.reference or self.policy))
        return sorted({name for model in models for name in model._no_split_modules or ()})

    def tie_weights(self) -> None:
        """Tie again what was tied, such as heads to embeddings: accelerate asks for it as it spreads parameters."""
        tie(self, self._ties)  # by the models' own hands it fails where an adapter wraps a tied head or embedding

    @property
    def reference(self) -> nn.Module | None:
        """The reference; None where it is the policy (with another adapter, or none), was released or is not needed."""
        return self.reference_scorer.model

    @property
    def reference_model(self) -> nn.Module:
        """The module that is the reference: the policy where there is no other. A released one is loaded again."""
        return self.reference_scorer.loaded(self.policy)

    @property
    def cache(self) -> ReferenceCache | None:
        """The reference cache; None without one, and before the first batch."""
        return self.reference_scorer.cache

    @property
    def reference_free(self) -> bool:
        """Whether the objective needs no reference."""
        return self.objective.config.reference_free

    @property
    def uses_plain_forward(self) -> bool:
        """Whether the plain forward pass of the models is used, since the gathered head disagrees with it."""
        return bool(self._choice.uses_plain_forward)

    @property
    def shares_prefix(self) -> bool:
        """Whether pairs share a row, in batches where that is less work. False before the first batch."""
        return self._choice.shares

    def forward(self, batch: PreferenceBatch) -> ObjectiveOutput:
        """Score the batch and apply the objective. Raises NonFiniteError, if it `raises_non_finite`."""
        output = self._output(layout := self._layout(batch), batch)
        if self.raises_non_finite and not bool(all_finite(output)):
            if layout.prefix is not None:  # NaN in one response reaches the others of its row
                output = self._output(Layout.two_rows(batch), batch)
            raise_non_finite(output, batch)
        return self.mask_metrics.added_to(output, is_training=self.training and torch.is_grad_enabled())

    def score(self, batch: PreferenceBatch) -> TokenBatch:
        """Both models' statistics of the response tokens, with the signals that the objective requires."""
        return self._score(self._layout(batch), batch)[0]

    def precompute_reference(self, batch: PreferenceBatch) -> None:
        """Add the reference's states of a batch to the cache. Raises StoreError where it holds others of the first."""
        self._reference_states(self._layout(batch), batch)

    def release_reference(self, reload: Callable[[], nn.Module] | None = None) -> None:
        """Unload the reference, whose states are in the cache. Its head stays where the objective measures an exact
        divergence.

        reload  loads the reference again for a response that is not in the cache; without it, that is a StoreError
        Raises ValueError without a reference of its own weights, or a cache that a batch has opened.
        """
        self.reference_scorer.unload(reload)

    def _score(self, layout: Layout, batch: PreferenceBatch) -> tuple[TokenBatch, Tensor | None]:
        """The statistics, and the policy's router loss if it has one."""
        reference, plain_forward = self._reference_states(layout, batch), self.uses_plain_forward

        def policy_statistics() -> tuple[TokenStatistics, ModelStates, Tensor | None]:
            states, head, router_loss = self._policy_states(layout, plain_forward=plain_forward)
            statistics = self._statistics(states, head, reference, layout.labels)
            return statistics, ModelStates(signals=states.signals), router_loss

        statistics, signals, router_loss = in_fsdp_forward(self.policy, policy_statistics, plain_forward=plain_forward)
        return token_batch(layout, statistics, signals.added_to(reference)), router_loss

    def _policy_states(self, layout: Layout, *, plain_forward: bool) -> tuple[ModelStates, Head | None, Tensor | None]:
        router, signals = self.router_loss, self.objective.config.policy_signals
        collect = partial(states_and_gradients, self.policy, layout, signals=signals, router_logits=bool(router))
        collect = partial(collect, plain_forward=plain_forward)
        states, head = (collect(), None) if plain_forward else states_and_head(causal_lm(self.policy), collect)
        if router and torch.is_grad_enabled():
            require_gradient(states.router_logits, self.policy)
        return states, head, None if router is None else router(states.router_logits, layout)

    def _output(self, layout: Layout, batch: PreferenceBatch) -> ObjectiveOutput:
        """The objective's output, in groups of pairs where the logits of all exceed the budget."""
        lm, budget = causal_lm(self.policy), self.logits_budget
        weight, plain_forward = lm.get_output_embeddings().weight, self.uses_plain_forward
        if plain_forward or not (groups := groups_for_budget(self.objective, layout, weight, budget)):
            tokens, router_loss = self._score(layout, batch)
            output: ObjectiveOutput = self.objective(tokens)
            output = replace(output, losses=output.losses.detach())
        else:
            reference = self._reference_states(layout, batch)

            def policy_output() -> tuple[ObjectiveOutput, Tensor | None]:
                states, head, router_loss = self._policy_states(layout, plain_forward=False)
                assert head is not None
                given = head, states.added_to(reference), layout, self._statistics, budget
                return chunked_loss(self.objective, groups, states.hidden, *given), router_loss

            output, router_loss = in_fsdp_forward(self.policy, policy_output)
        return output if self.router_loss is None else self.router_loss.added_to(output, router_loss)

    def compile(self, *, backend: str | Callable[..., Any] = "inductor", mode: str | None = None) -> None:
        """Compile both models and the objective with torch.compile, with symbolic sizes: batches of other lengths do
        not recompile. What depends on the data (rows, gathering, chunks) is not compiled.

        backend, mode  as in torch.compile. The first batch is verified against models that are not compiled.
        """
        models = [backbone(causal_lm(model)) for model in (self.policy, self.reference) if model is not None]
        for module in (*models, self.objective):
            compile_in_place(module, backend=backend, mode=mode)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the policy's activations in backward; the reference keeps none in any case."""
        causal_lm(self.policy).activation_checkpointing_enable(**kwargs)

    def _statistics(
        self,
        policy: ModelStates,
        head: Head | None,
        reference: ModelStates | None,
        labels: Tensor,
        head_gradient: HeadGradient | None = None,
        foreseen: Foreseen | None = None,
    ) -> TokenStatistics:
        needs_head = reference is not None and reference.last_hidden_state is not None
        ref_head = self.reference_scorer.head(self.policy) if needs_head else None
        given = self.objective.config, policy, head, reference, ref_head, labels
        return statistics_for_objective(
            *given, budget=self.logits_budget, buffers=self._buffer_pool, head_gradient=head_gradient, foreseen=foreseen
        )

    def _reference_states(self, layout: Layout, batch: PreferenceBatch) -> ModelStates | None:
        """None for a reference-free objective."""
        if self.reference_free:
            return None
        return self.reference_scorer.states(self.policy, layout, batch, plain_forward=self.uses_plain_forward)

    def _layout(self, batch: PreferenceBatch) -> Layout:
        roles, on_host, device = partial(self.reference_scorer.roles, self.policy), batch.to("cpu"), batch.rows.device
        self._compatibility.require(roles, on_host, device)
        if self._choice.is_due(on_host, training=self.training and torch.is_grad_enabled()):
            cached = self._choice.uses_plain_forward is not None and self.cache is not None  # nobody runs the reference
            self._choice.verify(batch, roles(policy_alone=cached), share=self.shared_prefix, max_length=self.max_length)
        width = self.config.get_text_config().hidden_size
        return (self._choice.layout(on_host, width) if self.shared_prefix else Layout.two_rows(on_host)).to(device)
