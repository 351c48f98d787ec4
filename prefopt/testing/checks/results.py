"""Checks of what a component returns, whatever its kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prefopt.component import Component, Divergence, Regularizer, RewardShaping, TokenWeighting, Units
from prefopt.objective import Objective, ObjectiveOutput
from prefopt.testing.cases import Case, case_for, cases
from prefopt.testing.check import ConformanceError, check
from prefopt.testing.trial import (
    arguments,
    build,
    call,
    gradient,
    objective_of,
    require,
    require_finite,
    require_same,
    same,
    wherever_it_learns,
)
from prefopt.tokens import TokenBatch


@check(Component)
def one_value_each(component: Component) -> None:
    """The result has the shape of its kind: one weight, divergence or unit per token, one reward per response, one
    loss or penalty per pair.

    A result of another shape is broadcast in silence: a mean over the batch instead of a loss per pair still trains,
    but on something else.
    """
    case = case_for(component)
    expected = _shape(component, case)
    shape = tuple(call(component, case).shape)
    require(shape == expected, f"the result has shape {shape}, not {expected}", case)


def _shape(component: Component, case: Case) -> tuple[int, ...]:
    match component:
        case TokenWeighting() | Divergence() | Units():
            return tuple(case.mask.shape)
        case RewardShaping():
            return (2 * case.number,)
    return (case.number,)


@check(Component)
@wherever_it_learns
def values_are_finite(component: Component) -> None:
    """On ordinary batches every value is finite, whatever is in the padding.

    One NaN in one pair makes the loss of the whole batch NaN, and the step after it has no model left to train.
    """
    for case in cases(component):
        require_finite(call(component, case), "a value", case)


@check(TokenWeighting, RewardShaping, Units, Regularizer)
def one_token_responses_are_finite(component: Component) -> None:
    """Responses of a single token give finite values.

    The shortest answers, "Yes" or the end of text alone, are in every data set. A standard deviation over one token,
    or a position divided by the length less one, is NaN there.
    """
    _finite(component, (1, 3, 1, 1, 1, 2))


@check(TokenWeighting, RewardShaping, Units, Regularizer)
def empty_responses_are_finite(component: Component) -> None:
    """A response without tokens, its mask all false, gives finite values.

    Truncation and chunking can leave one. A mean over no tokens is 0 / 0; masked_mean gives 0 there.
    """
    _finite(component, (3, 0, 2, 2, 4, 0))


def _finite(component: Component, lengths: tuple[int, ...]) -> None:
    case = case_for(component, lengths=lengths)
    require_finite(call(component, case), "a value", case)


@check(Component)
def inputs_are_not_modified(component: Component) -> None:
    """The tensors that the component is given are as they were after the call.

    All components of an objective share one batch; an in-place operation in one changes what the next one reads, and
    the order of the slots would matter.
    """
    case = case_for(component)
    given = arguments(component, case)
    before = {name: value.clone() for name, value in _tensors(given).items()}
    build(component)(*given)
    changed = [name for name, value in _tensors(given).items() if not same(value, before[name], tolerance=0)]
    require(not changed, f"it writes to {', '.join(changed)}", case)


def _tensors(given: tuple[object, ...]) -> dict[str, Tensor]:
    tensors = {}
    for index, value in enumerate(given):
        if isinstance(value, Tensor):
            tensors[f"argument {index + 1}"] = value
        elif isinstance(value, TokenBatch):
            fields = {**vars(value), **{f"column {name}": column for name, column in value.columns.items()}}
            tensors |= {name: field for name, field in fields.items() if isinstance(field, Tensor)}
    return tensors


@check(Component)
def evaluation_is_deterministic(component: Component) -> None:
    """In evaluation the same batch gives the same result, bit for bit.

    Accuracies and margins on held-out pairs are compared between runs. Dropout and noise belong to training: a module
    from `build` knows which it is by `self.training`.
    """
    case = case_for(component)
    function = build(component)
    one, two = call(component, case, function), call(component, case, function)
    require_same(one, two, "in the second call a value", case, tolerance=0)


@check(Component)
def single_precision_agrees_with_double(component: Component) -> None:
    """In float32 the results are those in float64, to about four digits, and in float32 too.

    Training is in float32. Where the two disagree, digits cancel, and the gradient is noise. A constant or parameter in
    float64 makes everything after it float64, which is many times slower, and not to be had on some devices.
    """
    module = build(component, None)
    learned = module.named_parameters() if isinstance(module, nn.Module) else ()
    wide = [name for name, parameter in learned if parameter.dtype == torch.float64]
    require(not wide, f"{', '.join(wide)} is made in float64: make it in float32", "what it builds")
    for case in cases(component):
        double, single = call(component, case), call(component, case.to(torch.float32))
        require(
            single.dtype == torch.float32 or not single.is_floating_point(),
            f"of inputs in float32 the result is in {str(single.dtype).removeprefix('torch.')}: let constants take the "
            "dtype of an input, as in x.new_tensor(0.5), and cast the rest, as in x.to(self.weight.dtype)",
            case,
        )
        require_same(single, double, "a value", case, tolerance=2e-4)


@check(Component)
@wherever_it_learns
def gradients_are_finite(component: Component) -> None:
    """In a plain objective the gradients of policy and learned parameters are finite, whatever is in the padding.

    torch.where(mask, f(x), 0) hides a NaN in the padding from the value, but not from the gradient, where 0 times NaN
    is NaN. Put the where inside: f(torch.where(mask, x, 0)).
    """
    for case in cases(component):
        objective = objective_of(component)
        trained, logits = case.with_gradient()
        loss = _loss(objective, trained)
        if loss.requires_grad:
            leaves = {"the policy": logits, **dict(objective.named_parameters())}
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for name, slope in zip(leaves, gradients, strict=True):
                require_finite(torch.zeros(()) if slope is None else slope, f"a gradient of {name}", case)


@check(Component)
def objective_descends(component: Component) -> None:
    """In its slot of an otherwise plain objective, a few gradient steps on the policy's logits make the loss fall.

    This is what the component is for. It fails where the loss is flat in the policy, or where a gradient is not that
    of the value.
    """
    case = case_for(component)
    objective = objective_of(component)
    before, _ = _descent(objective, case)
    trained = case
    for _ in range(5):
        _, slope = _descent(objective, trained)
        require(slope.norm() > 0, "no gradient reaches the policy", case)
        trained = case.but("after steps", logits=trained.rows["logits"] - 0.02 * slope / slope.norm())
    after, _ = _descent(objective, trained)
    require(after < before, f"the loss goes from {before:.9g} to {after:.9g} in 5 steps", case)


def _descent(objective: Objective, case: Case) -> tuple[float, Tensor]:
    trained, logits = case.with_gradient()
    loss = _loss(objective, trained)
    return float(loss.detach()), gradient(loss, logits)


def _loss(objective: Objective, case: Case) -> Tensor:
    term = objective.config.divergence
    output: ObjectiveOutput = objective(case.tokens(term.measure if term else None))
    return output.loss


@check(Component)
def compiles_whole(component: Component) -> None:
    """torch.compile traces what the component builds into one graph, without a break.

    A break costs a compiled training step most of its speed. Where the mathematics does not allow one graph, list this
    check among the expected failures and say why.
    """
    case = case_for(component)
    function = build(component)
    given = arguments(component, case)
    plain = function(*given)
    torch.compiler.reset()
    try:
        compiled: Any = torch.compile(function, fullgraph=True, backend="eager")
        traced = compiled(*given)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConformanceError(f"the graph breaks: {type(error).__name__}: {reason}", on=case.words) from error
    finally:
        torch.compiler.reset()
    require(same(traced, plain), "the traced function says something else", case)
