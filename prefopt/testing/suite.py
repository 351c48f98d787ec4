"""Which checks concern a component, and how to run them: within pytest and without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from prefopt.component import Component
from prefopt.progress import tracked
from prefopt.testing.check import Check, ConformanceError, Result, label
from prefopt.testing.checks import CHECKS
from prefopt.testing.trial import fails_in_double_alone
from prefopt.validation import did_you_mean


def checks_of(component: Component) -> tuple[Check, ...]:
    """The checks that concern the component, as configured."""
    return tuple(check for check in CHECKS if check.concerns(component))


def examine(component: Component, expected_failures: Mapping[str, str] | None = None) -> list[Result]:
    """Run every check that concerns the component.

    `expected_failures` names checks that it fails, besides those of `Component.expected_failures`, each with the
    reason; one that passes all the same has failed. Raises ValueError where no such check concerns the component.
    """
    expected = {**component.expected_failures, **(expected_failures or {})}
    _refuse_unknown(expected, (component,))
    causes = _Causes(component)
    results = [
        Result.from_run(check, partial(causes.run, check), expected.get(check.name))
        for check in tracked(checks_of(component), "checking")
    ]
    return [replace(result, stops=tuple(causes.stopped.get(result.check.name, ()))) for result in results]


class _Causes:
    """The exceptions that a component raises itself: the first check that meets one tells of it, others name that."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.stopped: dict[str, list[str]] = {}
        self._first: dict[str, str] = {}

    def run(self, check: Check) -> str | None:
        """Run the check on the component."""
        __tracebackhide__ = True
        try:
            return check(self.component)
        except ConformanceError as error:
            if not error.cause:
                raise
            first = self._first.setdefault(error.cause, check.name)
            if first == check.name:
                remedy = f"\n{_FLOAT64}" if fails_in_double_alone(self.component) else ""
                raise ConformanceError(error.fault + remedy, error.on, error.why, error.cause) from error.__cause__
            self.stopped.setdefault(first, []).append(check.name)
            raise ConformanceError(f"it raised as in {first}: {error.fault}", cause=error.cause) from None


_FLOAT64 = (
    "inputs are float64 here, and with float32 it runs: use the parameter's dtype, as in x.to(self.weight.dtype); "
    "a constant takes that of an input, as in x.new_tensor(0.5), or is a buffer of its module"
)


def conformance(
    *components: Component, expected_failures: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test with every check of every one of these components:

        @conformance(DecayWeighting(), DecayWeighting(gamma=0.5), expected_failures={"check_name": "reason"})
        def test_conformance(check):
            check()

    `expected_failures` names checks that these components fail, besides those of `Component.expected_failures`, each
    with the reason; one that passes all the same fails the run. Raises ValueError where no such check concerns any of
    them. Needs pytest.
    """
    import pytest

    _refuse_unknown(expected_failures or {}, components)
    cases = []
    for component in components:
        expected = {**component.expected_failures, **(expected_failures or {})}
        _refuse_unknown(component.expected_failures, (component,))
        causes = _Causes(component)
        for check in checks_of(component):
            reason = expected.get(check.name)
            marks = () if reason is None else (pytest.mark.xfail(reason=reason, raises=ConformanceError, strict=True),)
            cases.append(pytest.param(partial(causes.run, check), id=f"{label(component)}-{check.name}", marks=marks))
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
