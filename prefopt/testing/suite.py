"""Which checks concern a component, and how to run them: within pytest and without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from prefopt.component import Component
from prefopt.progress import tracked
from prefopt.testing.check import Check, ConformanceError, Result, label
from prefopt.testing.checks import CHECKS
from prefopt.validation import did_you_mean


def checks_of(component: Component) -> tuple[Check, ...]:
    """The checks that concern the component, as configured."""
    return tuple(check for check in CHECKS if check.concerns(component))


def examine(component: Component, expected_failures: Mapping[str, str] | None = None) -> list[Result]:
    """Run every check that concerns the component.

    `expected_failures` names checks that it fails, each with the reason; one that passes all the same has failed.
    Raises ValueError where no such check concerns the component.
    """
    expected = expected_failures or {}
    _refuse_unknown(expected, (component,))
    return [Result.run(check, component, expected) for check in tracked(checks_of(component), "checking")]


def conformance(
    *components: Component, expected_failures: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test with every check of every one of these components:

        @conformance(DecayWeighting(), DecayWeighting(gamma=0.5), expected_failures={"check_name": "reason"})
        def test_conformance(check):
            check()

    `expected_failures` names checks that these components fail, each with the reason; one that passes all the same
    fails the run. Raises ValueError where no such check concerns any of them. Needs pytest.
    """
    import pytest

    expected = expected_failures or {}
    _refuse_unknown(expected, components)
    cases = []
    for component in components:
        for check in checks_of(component):
            reason = expected.get(check.name)
            marks = () if reason is None else (pytest.mark.xfail(reason=reason, raises=ConformanceError, strict=True),)
            cases.append(pytest.param(partial(check, component), id=f"{label(component)}-{check.name}", marks=marks))
    return pytest.mark.parametrize("check", cases)


def _refuse_unknown(expected: Mapping[str, str], components: Iterable[Component]) -> None:
    names = sorted({check.name for component in components for check in checks_of(component)})
    for name in expected:
        if name not in names:
            raise ValueError(
                f"expected_failures: no check {name!r} concerns {', '.join(map(label, components))}."
                f"{did_you_mean(name, names)} Checks: {', '.join(names)}."
            )


def markdown() -> str:
    """The checks as a list in Markdown: name, kinds, what is checked and why it matters."""
    entries = []
    for check in CHECKS:
        kinds = ", ".join("every kind" if kind is Component else kind.kind for kind in check.kinds)
        entries.append(f"### `{check.name}`\n\n*{kinds}*\n\n{check.what}\n\n{check.why}\n")
    return "\n".join(entries)
