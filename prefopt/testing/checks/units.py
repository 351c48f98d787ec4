"""Checks of units."""

from __future__ import annotations

import torch

from prefopt.component import Units
from prefopt.testing.cases import case_for, cases
from prefopt.testing.check import check
from prefopt.testing.trial import call, require
from prefopt.unit_pairs import UnitPairs


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
        pairs = UnitPairs.match(component, case.tokens())
        shares.append(float(pairs.unpaired[case.mask].double().mean()))
    require(min(shares) < 1, "no unit has a partner", f"{len(shares)} cases")
    return f"tokens without a partner: {sum(shares) / len(shares):.0%}"
