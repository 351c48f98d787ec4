"""How a component of any kind is tried: what it is given, what it builds, where in an objective it stands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prefopt.component import (
    Component,
    Divergence,
    PreferenceLoss,
    Regularizer,
    RewardShaping,
    SampledDivergence,
    Signal,
    TokenWeighting,
    Units,
    built,
)
from prefopt.divergences import ForwardKL
from prefopt.objective import Objective
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.testing.cases import HIDDEN, LAYERS, Case, case_for
from prefopt.testing.check import ConformanceError, raised_by

Function = Callable[..., Tensor]
C = TypeVar("C", bound=Component)
M = TypeVar("M", bound=nn.Module)

_SHIFTS = (1.0, -4.0)
"""How far parameters are moved from their start, along random numbers of deviation one: one way, and far the other."""

_SHIFT: ContextVar[float] = ContextVar("_SHIFT", default=0.0)
"""How far they are now."""


def wherever_it_learns(check: Callable[[C], str | None]) -> Callable[[C], str | None]:
    """Of a check the one that is also made with learned parameters moved away from their start.

    What starts at zero silences what it multiplies: a gate that reads padding or other pairs shows it later only.
    """

    @functools.wraps(check)
    def both(component: C) -> str | None:
        __tracebackhide__ = True
        remark = check(component)
        for shift in _SHIFTS if learns(component) else ():
            token = _SHIFT.set(shift)
            try:
                check(component)
            except ConformanceError as error:
                on = ", ".join(filter(None, (error.on, f"what it learns moved by {abs(shift):g} from its start")))
                raise ConformanceError(error.fault, on, error.why, error.cause) from error.__cause__
            finally:
                _SHIFT.reset(token)
        return remark

    return both


def build(component: Component, dtype: torch.dtype | None = torch.float64, *, seed: int = 0) -> Any:
    """What the component builds, in evaluation mode and that precision, or its own; the global seed is left as it
    was."""
    if not isinstance(component, TokenWeighting | Units | PreferenceLoss):
        return component
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        shape = {} if isinstance(component, PreferenceLoss) else {"num_layers": LAYERS, "hidden_size": HIDDEN}
        function: Any = built(component, **shape)
    finally:
        torch.set_rng_state(state)
    return _placed(function, seed).to(dtype).eval() if isinstance(function, nn.Module) else function


def _placed(module: M, seed: int) -> M:
    """The module, its parameters where the check wants them."""
    if shift := _SHIFT.get():
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(shift * torch.randn(parameter.shape, generator=draw).to(parameter.dtype))
    return module


def stateful(component: Component) -> bool:
    """Whether it builds a module."""
    return _module(component) is not None


def learns(component: Component) -> bool:
    """Whether it builds a module with parameters."""
    module = _module(component)
    return module is not None and any(True for _ in module.parameters())


def _module(component: Component) -> nn.Module | None:
    try:
        function = build(component)
    except Exception:  # every check that calls it will say so
        return None
    return function if isinstance(function, nn.Module) else None


def arguments(component: Component, case: Case, *, withheld: Collection[str] = ()) -> tuple[Any, ...]:
    """What a component of its kind is called with."""
    match component:
        case TokenWeighting() | Units():
            return (case.tokens(withheld=withheld),)
        case Divergence():
            return case.distributions(sampled=isinstance(component, SampledDivergence))
        case RewardShaping():
            return (case.padded(case.rows["rewards"]), case.mask, case.is_chosen)
        case PreferenceLoss():
            return (*case.rows["response_rewards"].chunk(2), case.tokens(withheld=withheld))
        case Regularizer():
            return (case.tokens(withheld=withheld), case.rows["weights"], case.rows["divergence_weights"])
    raise TypeError(f"{type(component).__name__} is of no kind that prefopt knows")


def call(component: Component, case: Case, function: Function | None = None) -> Tensor:
    """The component's result on the case. Raises ConformanceError, which names the case, where it raises anything."""
    __tracebackhide__ = True
    function = build(component, case.dtype) if function is None else function
    try:
        return function(*arguments(component, case))
    except Exception as error:
        raise raised_by(component, error, case.words) from error


def fails_in_double_alone(component: Component) -> bool:
    """Whether it raises on inputs in float64, and on the same ones in float32 does not."""

    def raises(case: Case) -> bool:
        try:
            call(component, case)
        except Exception:
            return True
        return False

    case = case_for(component)
    return raises(case) and not raises(case.to(torch.float32))


def config_with(component: Component) -> ObjectiveConfig:
    """An otherwise plain objective with the component in its slot."""
    term = DivergenceTerm(measure=ForwardKL()) if Signal.DIVERGENCE in component.requires else None
    match component:
        case TokenWeighting():
            return ObjectiveConfig(weighting=component, divergence=term)
        case Divergence():
            return ObjectiveConfig(divergence=DivergenceTerm(measure=component, alpha=0.5))
        case RewardShaping():
            return ObjectiveConfig(shaping=component, divergence=term)
        case Units():
            return ObjectiveConfig(units=component, divergence=term)
        case PreferenceLoss():
            return ObjectiveConfig(loss=component, divergence=term)
        case Regularizer():
            return ObjectiveConfig(regularizers=(component,), divergence=term)
    raise TypeError(f"{type(component).__name__} is of no kind that prefopt knows")


def objective_of(component: Component, dtype: torch.dtype = torch.float64, *, seed: int = 0) -> Objective:
    """That objective, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = Objective(config_with(component), num_layers=LAYERS, hidden_size=HIDDEN)
    return _placed(objective, seed).to(dtype).eval()


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    """d value.sum() / d leaf; zero where the value does not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (d_leaf,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    return torch.zeros_like(leaf) if d_leaf is None else d_leaf


def require(condition: object, fault: str, case: Case | str) -> None:
    """Raise ConformanceError with the fault, on that case, unless the condition holds."""
    if not condition:
        raise ConformanceError(fault, on=case if isinstance(case, str) else case.words)


def require_finite(values: Tensor, what: str, case: Case) -> None:
    """Raise ConformanceError where a value is not finite."""
    wrong = values[~values.isfinite()].detach()
    if wrong.numel():
        raise ConformanceError(f"{what} of {float(wrong.flatten()[0])}", on=case.words)


def require_finite_with_gradient(values: Tensor, leaf: Tensor, what: str, case: Case) -> None:
    """Raise ConformanceError where a value, or its gradient in the leaf, is not finite."""
    require_finite(values, what, case)
    require_finite(gradient(values, leaf), "a gradient", case)


def require_same(one: Tensor, two: Tensor, what: str, case: Case, *, tolerance: float = 1e-9) -> None:
    """Raise ConformanceError where two results differ; `what` moves by the largest difference."""
    require(same(one, two, tolerance=tolerance), f"{what} moves by {_largest(one, two)}", case)


def same(one: Tensor, two: Tensor, *, tolerance: float = 1e-9) -> bool:
    """Whether two results agree, nan and infinity being like themselves."""
    return one.shape == two.shape and torch.allclose(
        one.double(), two.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def _largest(one: Tensor, two: Tensor) -> str:
    if one.shape != two.shape:
        return f"shape: {tuple(one.shape)} for {tuple(two.shape)}"
    size = (one.double() - two.double()).detach().abs().nan_to_num(nan=torch.inf)
    return f"{float(size.max()):.3g}" if size.numel() else "nothing"
