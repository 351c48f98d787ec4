"""The loss in groups of pairs, forward and backward, with gradients accumulated.

Most losses are means over pairs that do not depend on each other. Where the logits of a batch exceed the budget, its
pairs are taken in groups whose logits fit, each forward and backward through head and objective. Of a group only
gradients stay,

    dL/dh of its tokens,   dL/dW and those of the objective's parameters, accumulated over the groups

until autograd's backward reaches the loss. No logits are computed twice, and none outlive their group. A pair whose
logits exceed the budget by themselves goes through the head chunk by chunk, forward and backward, where its gradients
are foreseen (`foreseen`); otherwise what does not fit is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prefopt.component import Signal
from prefopt.objective import Mean, Objective, ObjectiveOutput
from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring.foreseen import foreseen_gradients
from prefopt.scoring.forward import ModelStates, token_batch
from prefopt.scoring.lm_head.buffer_pool import BufferPool
from prefopt.scoring.lm_head.chunk_sizes import default_budget
from prefopt.scoring.lm_head.foreseen import Foreseen
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.lm_head.token_statistics import TokenStatistics, dense_statistics, token_statistics
from prefopt.scoring.pair_groups import Group
from prefopt.scoring.rows.layout import Layout
from prefopt.tokens import TokenBatch


def statistics_for_objective(
    config: ObjectiveConfig,
    policy: ModelStates,
    head: Head | None,
    reference: ModelStates | None,
    ref_head: Head | None,
    labels: Tensor,
    *,
    budget: int | None,
    buffers: BufferPool,
    head_gradient: HeadGradient | None = None,
    foreseen: Foreseen | None = None,
) -> TokenStatistics:
    """The statistics that an objective reads, from both models' states at labels [M]: last hidden states and heads, or
    logits after the plain forward pass. The reference's log-probabilities may be known, as from a cache.

    `budget`, `buffers`, `head_gradient` and `foreseen` are those of `token_statistics`.
    """
    exact, log_collision = config.exact_divergence, Signal.LOG_COLLISION in config.requires
    if policy.logits is not None:
        ref_logits = None if reference is None else reference.logits
        statistics = dense_statistics(policy.logits, ref_logits, labels, exact, log_collision=log_collision)
    else:
        assert head is not None
        statistics = token_statistics(
            policy.hidden,
            head,
            None if reference is None else reference.last_hidden_state,
            ref_head,
            labels,
            exact,
            log_collision=log_collision,
            budget=budget,
            buffers=buffers,
            head_gradient=head_gradient,
            foreseen=foreseen,
        )
    if reference is not None and reference.logps is not None:
        statistics = statistics._replace(ref_logps=reference.logps)
    return with_sampled_divergence(config, statistics)


def with_sampled_divergence(config: ObjectiveConfig, statistics: TokenStatistics) -> TokenStatistics:
    """The statistics with the divergence that an objective takes of log-probabilities, if it does."""
    if config.divergence is None or config.exact_divergence is not None:
        return statistics
    return statistics._replace(divergence=config.divergence.measure(statistics.logps, statistics.ref_logps))


def chunked_loss(
    objective: Objective,
    groups: Sequence[Group],
    hidden: Tensor,
    head: Head,
    reference: ModelStates | None,
    layout: Layout,
    statistics: Callable[
        [ModelStates, Head, ModelStates | None, Tensor, HeadGradient, Foreseen | None], TokenStatistics
    ],
    budget: int | None,
) -> ObjectiveOutput:
    """The objective's output for the whole batch, in which `loss` alone carries gradient.

    hidden [M, H] are the policy's. `statistics` takes the policy's states of a group, its head, the reference's states,
    labels [m], the HeadGradient to which its backward adds, and the gradients that are foreseen of a pair beyond the
    budget, where the head's gradient fits it: it is held twice then.
    """
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    d_hidden = torch.empty_like(hidden)
    head_gradient, frozen = HeadGradient.blank(head), head.map(torch.detach)
    d_learned = [torch.zeros_like(parameter) for parameter in learned]
    outputs, all_statistics = [], []
    add_divergence = partial(with_sampled_divergence, objective.config)
    for group in groups:
        ref_states = None if reference is None else reference.select(group.rows, group.tokens)
        group_hidden = hidden.detach()[group.tokens].requires_grad_()
        narrowed = group.narrow(layout)
        foreseen = None
        if group.exceeds and head_gradient.bytes <= (default_budget(head.weight) if budget is None else budget):
            foreseen = foreseen_gradients(objective, narrowed, ref_states, add_divergence, wide(hidden.dtype))
        of_group = statistics(ModelStates(group_hidden), frozen, ref_states, narrowed.labels, head_gradient, foreseen)
        output = objective(token_batch(narrowed, of_group, ref_states))
        gradients = torch.autograd.grad(
            output.losses.sum() / layout.pairs, [group_hidden, *learned], materialize_grads=True
        )
        d_hidden[group.tokens] = gradients[0]
        for total, gradient in zip(d_learned, gradients[1:], strict=True):
            total += gradient
        all_statistics.append(of_group)
        outputs.append(output)
    output = _join_outputs(outputs, groups, token_batch(layout, _join_statistics(all_statistics, groups), reference))
    loss = _PrecomputedGradients.apply(
        output.loss, (d_hidden, *head_gradient.in_precision_of(head), *d_learned), hidden, *head.parameters, *learned
    )  # type: ignore[no-untyped-call]
    return replace(output, loss=loss)


class _PrecomputedGradients(torch.autograd.Function):
    """loss [] and the gradients of its inputs, which backward returns."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor | None, ...], *inputs: Tensor | None) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled in place
        if gradients is None:
            raise RuntimeError("backward through the loss of a PreferenceModel a second time: call the model again")
        return (None, None, *(None if gradient is None else gradient.mul_(g_loss) for gradient in gradients))


def _join_statistics(statistics: Sequence[TokenStatistics], groups: Sequence[Group]) -> TokenStatistics:
    """The statistics of all M tokens, without gradient."""
    order = torch.cat([group.tokens for group in groups]).argsort()
    columns = zip(*statistics, strict=True)  # one field of every group
    return TokenStatistics(
        *(None if values[0] is None else torch.cat(values).detach()[order] for values in columns)  # type: ignore[arg-type]
    )


def _join_outputs(outputs: Sequence[ObjectiveOutput], groups: Sequence[Group], tokens: TokenBatch) -> ObjectiveOutput:
    order = torch.cat([group.rows for group in groups]).argsort()

    def rows(name: str) -> Tensor:
        return torch.cat([getattr(output, name) for output in outputs])[order]

    losses = torch.cat([output.losses for output in outputs]).detach()
    metrics = [output.metrics for output in outputs]
    return ObjectiveOutput(
        loss=losses.mean(),
        losses=losses,
        rewards=rows("rewards"),
        weights=rows("weights"),
        divergence_weights=None if outputs[0].divergence_weights is None else rows("divergence_weights"),
        tokens=tokens,
        metrics={
            name: Mean(
                *(torch.stack(values).sum(0) for values in zip(*(by_name[name] for by_name in metrics), strict=True))
            )
            for name in metrics[0]
        },
    )
