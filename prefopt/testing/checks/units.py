"""Checks of units."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from prefopt.component import Signal, Units
from prefopt.testing.cases import Case, case_for, cases
from prefopt.testing.check import check, raised_by
from prefopt.testing.trial import build, call, gradient, require, require_finite, require_same, wherever_it_learns
from prefopt.unit_pairs import UnitPairs, has_baseline


@check(Units)
def unit_numbers_are_int64(component: Units) -> None:
    """The numbers of units are of dtype int64.

    Units are partners where their numbers are equal, which rounded numbers are or are not by chance.
    """
    case = case_for(component)
    dtype = call(component, case).dtype
    require(dtype == torch.int64, f"numbers of dtype {dtype}", case)


@check(Units)
def units_are_of_response_tokens(component: Units) -> None:
    """Numbers are -1 off the response, and nowhere lower.

    A number on padding makes a unit of what is no token, and -1 is what says that there is none.
    """
    case = case_for(component)
    numbers = call(component, case)
    require((numbers[~case.mask] == -1).all(), "a number on padding that is not -1", case)
    require((numbers >= -1).all(), f"the number {int(numbers.min())}", case)


@check(Units)
def some_units_have_partners(component: Units) -> str:
    """Of responses of ordinary lengths, some units have a partner. The remark gives the share of tokens that have none.

    A unit without a partner is left out or compared with zero. Where all are, no response is compared with the other.
    """
    shares = []
    for case in cases(component):
        pairs = UnitPairs.match(component, case.tokens(), build(component))
        shares.append(float(pairs.unpaired[case.mask].double().mean()))
    require(min(shares) < 1, "no unit has a partner", f"{len(shares)} cases")
    return f"tokens without a partner: {sum(shares) / len(shares):.0%}"


def measures_margins(component: Units) -> bool:
    """Whether it builds a module with a baseline."""
    try:
        return has_baseline(build(component))
    except Exception:  # every check that calls it will say so
        return False


def _baseline(component: Units, case: Case, *, withheld: Collection[str] = ()) -> Tensor:
    __tracebackhide__ = True
    try:
        baseline: Tensor = build(component, case.dtype).baseline(case.tokens(withheld=withheld))
    except Exception as error:
        on = ", ".join([case.words, *(f"without {signal}" for signal in sorted(withheld))])
        raise raised_by(component, error, on) from error
    return baseline


@check(Units, applies=measures_margins)
def baselines_are_declared(component: Units) -> None:
    """Where units build a module with a `baseline`, `has_baseline` is true.

    Units that measure margins from a baseline of their own refuse such units inside them, as one of the two would not
    be read.
    """
    require(component.has_baseline, "its module has a baseline, but has_baseline is False", case_for(component))


@check(Units, applies=measures_margins)
@wherever_it_learns
def baselines_are_of_response_tokens(component: Units) -> None:
    """The baseline is one finite number per token, and exactly 0 off the response.

    It is part of every margin. One NaN, of a response of one token or of none, makes the loss of the batch NaN.
    """
    for case in (*cases(component), *(case_for(component, lengths=few) for few in ((1, 3, 1, 1, 1, 2), (3, 0, 2, 2)))):
        baseline = _baseline(component, case)
        shape = tuple(baseline.shape)
        require(shape == case.mask.shape, f"the baseline has shape {shape}, not {tuple(case.mask.shape)}", case)
        require_finite(baseline, "a baseline", case)
        require(not baseline[~case.mask].any(), "a baseline on padding that is not 0", case)


@check(Units, applies=measures_margins)
@wherever_it_learns
def baselines_read_their_response_alone(component: Units) -> None:
    """The baseline of a response does not depend on padding, on other responses or on undeclared signals.

    It says what to expect of a response by itself; the comparison of the two belongs to the margin. What depends on
    the batch makes another loss of every batch, and a signal that `requires` does not hold is not there in a run.
    """
    case, other = case_for(component), case_for(component, 1)
    whole, wider = _baseline(component, case), case.widened(5)
    require_same(whole, _baseline(component, wider)[:, : whole.shape[1]], "a baseline", wider)
    for changed in range(2 * case.number):
        row = torch.arange(2 * case.number) == changed
        mixed = case.mixed(other, row)
        require_same(whole[~row], _baseline(component, mixed)[~row], "another response's baseline", mixed)
    undeclared = set(Signal) - component.requires
    require_same(whole, _baseline(component, case, withheld=undeclared), "without undeclared signals a baseline", case)


@check(Units, applies=measures_margins)
@wherever_it_learns
def baselines_pass_no_gradient(component: Units) -> None:
    """The baseline passes no gradient to the policy, neither by its log-probabilities nor by its states.

    Otherwise the policy can lower the loss by moving what margins are measured from in place of preferences. Detach
    what is read of it.
    """
    case = case_for(component)
    for side in ("logits", Signal.LAST_STATES.value):
        trained, leaf = case.with_gradient(side)
        slope = gradient(_baseline(component, trained), leaf)
        require(not slope.any(), f"a gradient of {float(slope.abs().max()):.3g} reaches the policy's {side}", case)
