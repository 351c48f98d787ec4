"""What a check is: a small function that says what it checks and why, and complains of what it finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from prefopt.component import Component


@final
class ConformanceError(AssertionError):
    """What a check found wrong with a component, on which input, and why that matters."""

    def __init__(self, fault: str, on: str = "", why: str = "") -> None:
        super().__init__(fault)
        self.fault = fault
        self.on = on
        self.why = why

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.fault, self.on and f"on: {self.on}", self.why and f"why: {self.why}")))


@final
@dataclass(frozen=True)
class Check:
    """A check of components of some kinds. Called with a component it returns a remark or None, or raises
    ConformanceError.

    The first paragraph of the function's docstring says what is checked, the rest why it matters.
    """

    function: Callable[[Any], str | None]
    kinds: tuple[type[Component], ...]
    applies: Callable[[Any], bool]

    @property
    def name(self) -> str:
        """The function's name, by which `expected_failures` lists it."""
        return self.function.__name__

    @property
    def what(self) -> str:
        """What is checked."""
        return self._paragraphs[0]

    @property
    def why(self) -> str:
        """Why it matters."""
        return self._paragraphs[1]

    @property
    def _paragraphs(self) -> tuple[str, str]:
        what, _, why = (inspect.getdoc(self.function) or "").partition("\n\n")
        return " ".join(what.split()), " ".join(why.split())

    def concerns(self, component: Component) -> bool:
        """Whether it checks components such as this one."""
        return isinstance(component, self.kinds) and self.applies(component)

    def __call__(self, component: Component) -> str | None:
        """Check the component. An exception of the component's own is a fault like any other."""
        try:
            return self.function(component)
        except ConformanceError as error:
            raise ConformanceError(error.fault, error.on, self.why) from error
        except Exception as error:
            raise ConformanceError(f"it raised {type(error).__name__}: {error}", why=self.why) from error


@final
@dataclass(frozen=True)
class Result:
    """What came of one check: a remark where it passed, what was found where it failed, the reason that was given where
    it was expected to fail.
    """

    check: Check
    status: Literal["pass", "fail", "expected failure"]
    text: str

    @classmethod
    def run(cls, check: Check, component: Component, expected_failures: Mapping[str, str]) -> Result:
        """Run the check. One that is expected to fail and passes has failed."""
        expected = expected_failures.get(check.name)
        try:
            remark = check(component)
        except ConformanceError as fault:
            return cls(check, "fail", str(fault)) if expected is None else cls(check, "expected failure", expected)
        if expected is not None:
            return cls(check, "fail", "it passes, though it is expected to fail: expect that no longer")
        return cls(check, "pass", remark or "")


def check(*kinds: type[Component], applies: Callable[[Any], bool] = lambda _: True) -> Callable[..., Check]:
    """Make a check of a function, for components of these kinds to which it applies."""

    def made(function: Callable[[Any], str | None]) -> Check:
        return Check(function, kinds, applies)

    return made


def label(component: object) -> str:
    """A component in few words: its name, and those of its fields that are not at their defaults."""
    if isinstance(component, tuple):
        return f"[{', '.join(map(label, component))}]"
    if not isinstance(component, Component):
        return str(component)
    fields = type(component).model_fields
    values = {key: getattr(component, key) for key in fields if key != "name"}
    shown = [f"{key}={label(value)}" for key, value in values.items() if value != fields[key].default]
    return f"{component.name}({', '.join(shown)})" if shown else component.name
