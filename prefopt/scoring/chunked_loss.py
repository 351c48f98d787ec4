"""Pairs that go all the way through the head, there and back, a few at a time.

Most losses are a mean over pairs, none of which depends on another. Where the logits of a whole batch are more than may
be kept, its pairs are taken in groups whose logits fit, each through head, objective and back. What is left of a group
are the gradients

    dL/dh of its tokens,   dL/dW and those of what the objective learns, added up over the groups

which wait until backward comes down to them. No logits are computed twice, and none outlive their group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prefopt.objective import Mean, Objective, ObjectiveOutput
from prefopt.scoring.forward import ModelStates, token_batch
from prefopt.scoring.lm_head.head import Head, HeadGradient
from prefopt.scoring.lm_head.token_statistics import TokenStatistics
from prefopt.scoring.rows.layout import Layout
from prefopt.tokens import TokenBatch

__all__ = ["Group", "groups", "settled"]


@final
@dataclass(frozen=True, eq=False)
class Group:
    """Some pairs of a batch that follow each other.

    pairs         how many
    rows [2 b]    of their responses among all N, chosen first
    tokens [m]    of their response tokens among all M, in the order of the rows
    """

    pairs: int
    rows: Tensor
    tokens: Tensor

    def of(self, layout: Layout) -> Layout:
        """The layout, with the responses of this group alone; what the models were given stays whole."""
        return replace(
            layout,
            mask=layout.mask[self.rows],
            token_ids=layout.token_ids[self.rows],
            predicting=layout.predicting[self.tokens],
            own=layout.own[self.tokens],
            columns={
                name: values[self.rows if values.ndim > 1 else self.rows[: self.pairs]]
                for name, values in layout.columns.items()
            },
        )


def groups(mask: Tensor, most: int) -> list[Group]:
    """The pairs of mask [N, T] in their order, in groups of at most so many response tokens, or of one pair."""
    rows = torch.arange(len(mask), device=mask.device)
    lengths = mask.sum(-1)
    row_of_token = rows.repeat_interleave(lengths)
    starts, held = [0], 0
    pairs = len(mask) // 2
    for pair, length in enumerate((lengths[:pairs] + lengths[pairs:]).tolist()):
        if held and held + length > most:
            starts.append(pair)
            held = 0
        held += length
    found = []
    for start, stop in zip(starts, [*starts[1:], pairs], strict=True):
        inside = (rows % pairs >= start) & (rows % pairs < stop)
        found.append(Group(stop - start, rows[inside], inside[row_of_token].nonzero()[:, 0]))
    return found


def settled(
    objective: Objective,
    parts: Sequence[Group],
    hidden: Tensor,
    head: Head,
    reference: ModelStates | None,
    layout: Layout,
    statistics: Callable[[Tensor, Head, ModelStates | None, Tensor, HeadGradient], TokenStatistics],
) -> ObjectiveOutput:
    """What the objective says of the whole batch; `loss` alone carries gradient.

    hidden [M, H] are the policy's. `statistics` are taken of such [m, H], the policy's head, what the reference said
    there and the labels [m]; in backward they add the gradients of the head to what they are given.
    """
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    d_hidden = torch.empty_like(hidden)
    into, frozen = HeadGradient.of(head), head.detach()
    d_learned = [torch.zeros_like(parameter) for parameter in learned]
    outputs, said = [], []
    for part in parts:
        states = None if reference is None else reference.at(part.rows, part.tokens)
        own = hidden.detach()[part.tokens].requires_grad_()
        within = part.of(layout)
        found = statistics(own, frozen, states, within.labels, into)
        output = objective(token_batch(within, found, states))
        gradients = torch.autograd.grad(output.losses.sum() / layout.pairs, [own, *learned], materialize_grads=True)
        d_hidden[part.tokens] = gradients[0]
        for total, gradient in zip(d_learned, gradients[1:], strict=True):
            total += gradient
        said.append(found)
        outputs.append(output)
    whole = _together(outputs, parts, token_batch(layout, _joined(said, parts), reference))
    loss = _Settled.apply(
        whole.loss, (d_hidden, *into.in_precision_of(head), *d_learned), hidden, *head.parameters, *learned
    )  # type: ignore[no-untyped-call]
    return replace(whole, loss=loss)


class _Settled(torch.autograd.Function):
    """loss [], whose gradients in the inputs are known."""

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
        return (None, None, *(None if each is None else each.mul_(g_loss) for each in gradients))


def _joined(said: Sequence[TokenStatistics], parts: Sequence[Group]) -> TokenStatistics:
    """The statistics of all M tokens, without gradient, from those of the groups."""
    order = torch.cat([part.tokens for part in parts]).argsort()

    def tokens(name: str) -> Tensor | None:
        values = [getattr(each, name) for each in said]
        return None if values[0] is None else torch.cat(values).detach()[order]

    logps, ref_logps = tokens("logps"), tokens("ref_logps")
    assert logps is not None
    assert ref_logps is not None
    return TokenStatistics(logps, ref_logps, tokens("divergence"), tokens("log_collision"))


def _together(outputs: Sequence[ObjectiveOutput], parts: Sequence[Group], tokens: TokenBatch) -> ObjectiveOutput:
    order = torch.cat([part.rows for part in parts]).argsort()

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
            name: Mean(*(torch.stack(values).sum(0) for values in zip(*(each[name] for each in metrics), strict=True)))
            for name in metrics[0]
        },
    )
