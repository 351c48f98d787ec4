"""Figures and settings as the report writes them."""

from __future__ import annotations

from prefopt.comparison.summary import Estimate, Row, Setting


def number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3g}"


def shown(estimate: Estimate | None, sign: str = "") -> str:
    """The mean and, in brackets, its interval."""
    if estimate is None or estimate.low is None:
        return number(estimate and estimate.mean, sign)
    return f"{number(estimate.mean, sign)} [{number(estimate.low, sign)}, {number(estimate.high, sign)}]"


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
    return row.name + at(row.setting) + ("" if estimate is None else f" ({spaced(distance)} {number(estimate.mean)})")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
