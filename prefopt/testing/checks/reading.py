"""Checks of what a component reads of a batch and keeps from it: signals, columns, parameters and state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prefopt.component import Component, PreferenceLoss, Regularizer, Signal, TokenWeighting, Units
from prefopt.testing.cases import case_for, cases
from prefopt.testing.check import check
from prefopt.testing.trial import (
    arguments,
    build,
    call,
    learns,
    objective_of,
    require,
    require_same,
    same,
    stateful,
    wherever_it_learns,
)


@check(TokenWeighting, Units, PreferenceLoss, Regularizer)
@wherever_it_learns
def reads_only_what_it_declares(component: Component) -> None:
    """Without the signals and columns that the component does not declare, its result is the same.

    A run collects the signals in `requires`, the activation sites of `activation_kinds`, and from the data the columns
    in `columns`, and nothing else: what is read without being declared is there in a test and missing in the run.
    """
    case = case_for(component)
    whole = call(component, case)
    undeclared = sorted(set(Signal) - component.requires)
    for signal in undeclared:
        given = arguments(component, case, withheld={signal})
        remedy = f"return Signal.{signal.name} among them"
        require(_still(component, given, whole), f"it reads {signal!s}, which `requires` does not hold: {remedy}", case)
    given = arguments(component, case, withheld=set(undeclared))
    require(_still(component, given, whole), "it reads signals that `requires` does not hold", case)
    collected = case.with_sites_of(component.activation_kinds)
    given = arguments(component, collected)
    require(_still(component, given, whole), "it reads sites that `activation_kinds` does not hold", collected)


def _still(component: Component, given: tuple[Any, ...], whole: Tensor) -> bool:
    try:
        return same(build(component)(*given), whole)
    except Exception:
        return False


@check(Component, applies=learns)
def no_dead_start(component: Component) -> None:
    """Whatever the seed, of 100, not all weights are zero at the start.

    Where they are, the objective is constant and no parameter gets a gradient: the run trains nothing and says
    nothing. Some published initialisations do so for one seed in a few.
    """
    case = case_for(component)
    given = arguments(component, case)
    dead = [seed for seed in range(100) if not build(component, seed=seed)(*given).any()]
    shown = ", ".join(map(str, dead[:5]))
    require(not dead, f"{len(dead)} of 100 seeds start with all weights zero: {shown} ...", case)


@check(Component, applies=learns)
def learned_parameters_learn(component: Component) -> None:
    """Within three steps, on a batch where policy and reference differ, a gradient reaches every parameter.

    A parameter without one is dead weight, or was cut off by a detach in the wrong place. Three steps, since a
    parameter that multiplies zeros, as in LoRA, waits for the first.
    """
    case = case_for(component)
    alive = (seed for seed in range(100) if call(component, case, build(component, seed=seed)).any())
    objective = objective_of(component, seed=next(alive, 0))
    still = dict(objective.named_parameters())
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = objective(case.tokens()).loss
        if loss.requires_grad:
            loss.backward()
        still = {name: weight for name, weight in still.items() if weight.grad is None or not weight.grad.any()}
        optimizer.step()
    require(not still, f"no gradient reaches {', '.join(still)} in three steps", case)


@check(Component, applies=stateful)
@wherever_it_learns
def state_dict_round_trips(component: Component) -> None:
    """Loaded into a fresh module, the state dict of one that was used in training makes it say the same.

    Checkpoints hold the state dict and nothing else, and optimizers move parameters alone. What is kept in a plain
    attribute is lost, and stays as it is where it should learn; it belongs into a parameter or a buffer.
    """
    case = case_for(component)
    one, two = build(component), build(component, seed=1)
    loose = [name for name, value in _attributes(one).items() if isinstance(value, Tensor) and value.requires_grad]
    require(not loose, f"{', '.join(loose)} takes gradient and is no parameter: wrap it in nn.Parameter(...)", case)
    one.train()
    for used in cases(component, 3):
        one(*arguments(component, used))
    two.load_state_dict(one.state_dict())
    require_same(call(component, case, two), call(component, case, one.eval()), "in the fresh module a value", case)


def _attributes(module: nn.Module) -> dict[str, object]:
    """What the module and those inside it keep beside parameters, buffers and modules."""
    return {
        f"{path}.{name}".removeprefix("."): value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
    }
