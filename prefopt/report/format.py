"""Figures and settings as the report writes them."""

from __future__ import annotations

from prefopt.comparison.summary import Difference, Estimate, Row, Setting

__all__ = [
    "LEVEL",
    "at",
    "counted",
    "has_zero",
    "judged",
    "least_p",
    "named",
    "number",
    "short",
    "shown",
    "spaced",
    "verdict",
]

LEVEL = 0.05
"""Below this p, adjusted, a difference is called distinguishable from chance."""


def number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3g}"


def shown(of: Estimate | None, sign: str = "") -> str:
    """The mean and, in brackets, its interval."""
    if of is None:
        return "-"
    return number(of.mean, sign) + ("" if of.low is None else f" [{number(of.low, sign)}, {number(of.high, sign)}]")


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
    """A row's name with its setting and, where it is known, its distance from the reference."""
    known = row.metrics.get(distance)
    return row.name + at(row.setting) + ("" if known is None else f" ({spaced(distance)} {number(known.mean)})")


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def least_p(seeds: int) -> float:
    """The least p that a permutation test over so many seeds can find."""
    return float(2.0 ** (1 - seeds))


def judged(of: Difference) -> tuple[str, float]:
    """What a difference is judged over, and its adjusted p: seeds, or held-out items where no seeds would find any."""
    if of.holm_items is not None and least_p(of.estimate.count) >= LEVEL:
        return "held-out items", of.holm_items
    return "seeds", of.holm_seeds


def has_zero(of: Estimate) -> bool:
    """Whether the interval holds zero."""
    return of.low is not None and of.high is not None and of.low <= 0 <= of.high


def verdict(of: Difference) -> str:
    over, p = judged(of)
    text = f"{'' if p < LEVEL else 'not '}distinguishable from chance over {over} (adjusted p {number(p)})"
    if p < LEVEL and has_zero(of.estimate):
        text += f", but the interval over {of.estimate.over} has zero within it"
    return text
