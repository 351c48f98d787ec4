"""Figures and settings as the report writes them."""

from __future__ import annotations

import math

from prefopt.comparison.summary import Estimate, Row, Setting

_LONGEST = 4
"""Digits of a mean that an interval makes certain, at most."""

_LARGE = 1e5
"""From here on numbers have a power of ten."""


def number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3g}"


def p_value(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.2g}"


def rounded(estimate: Estimate, sign: str = "") -> tuple[str, str, str]:
    """The mean and the ends of its interval, in the digits that the interval makes certain; empty ends without one.

    The last digit is that of the first digit of half the interval, or of its second where the first is 1 or 2; further
    digits where an interval without 0 would otherwise end at 0.
    """
    if estimate.low is None or estimate.high is None:
        return number(estimate.mean, sign), "", ""
    half = (estimate.high - estimate.low) / 2
    if not half or not math.isfinite(half):
        return number(estimate.mean, sign), "", ""
    decimals = math.floor(-math.log10(half)) + 1
    decimals += half * 10**decimals < 3
    largest = max(abs(estimate.mean), half)
    decimals = min(decimals, _LONGEST - 1 - math.floor(math.log10(largest)))
    if estimate.low * estimate.high > 0:
        nearest = min(abs(estimate.low), abs(estimate.high))
        decimals = max(decimals, math.ceil(-math.log10(2 * nearest)))
    mean, low, high = (_fixed(value, decimals, sign) for value in (estimate.mean, estimate.low, estimate.high))
    return mean, low, high


def _fixed(value: float, decimals: int, sign: str) -> str:
    value = round(value, decimals) + 0.0  # -0.0 is 0
    fixed = decimals <= _LONGEST and abs(value) < _LARGE
    return f"{value:{sign}.{max(0, decimals)}f}" if fixed else f"{value:{sign}.3g}"


def shown(estimate: Estimate | None, sign: str = "") -> str:
    """The mean and, in brackets, its interval."""
    if estimate is None:
        return "-"
    mean, low, high = rounded(estimate, sign)
    return f"{mean} [{low}, {high}]" if low else mean


def short(field: str) -> str:
    """A swept field without its section."""
    return field.partition(".")[2] or field


def spaced(name: str) -> str:
    """A metric's name as words."""
    return name.replace("_", " ")


def at(setting: Setting) -> str:
    """The setting as it follows a name; nothing where nothing is swept."""
    return "".join(f", {short(field)} {value}" for field, value in setting)


def named(row: Row, distance: str) -> str:
    """A row's name with its setting and, where it is measured, its distance from the reference."""
    estimate = row.metrics.get(distance)
    return row.name + at(row.setting) + ("" if estimate is None else f" ({spaced(distance)} {rounded(estimate)[0]})")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(words: list[str]) -> str:
    """a, b and c"""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
