"""What a check is: a small function that says what it checks and why, and complains of what it finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final

from prefopt.component import Component
from prefopt.origins import origin_in


@final
class ConformanceError(AssertionError):
    """What a check found wrong with a component, on which input, and why that matters.

    `cause` is the exception that the component raised itself, if any: the same for all checks that it stops.
    """

    def __init__(self, fault: str, on: str = "", why: str = "", cause: str = "") -> None:
        super().__init__(fault)
        self.fault = fault
        self.on = on
        self.why = why
        self.cause = cause

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
        __tracebackhide__ = True
        try:
            return self.function(component)
        except ConformanceError as error:
            raise ConformanceError(error.fault, error.on, self.why, error.cause) from error.__cause__
        except Exception as error:
            fault = raised_by(component, error)
            raise ConformanceError(fault.fault, why=self.why, cause=fault.cause) from error


@final
@dataclass(frozen=True)
class Result:
    """What came of one check.

    text  a remark where it passed, what was found where it failed, and the reason, with what was found, where it was
          expected to fail
    fault  what was found, None where it passed
    stops  the checks that come later and fail by the same exception of the component's own; they say no more than that
    """

    check: Check
    status: Literal["pass", "fail", "expected failure"]
    text: str
    fault: ConformanceError | None = None
    stops: tuple[str, ...] = ()

    @classmethod
    def from_run(cls, check: Check, run: Callable[[], str | None], expected: str | None) -> Result:
        """Run the check. One that is expected to fail, for that reason, and passes has failed."""
        try:
            remark = run()
        except ConformanceError as fault:
            if expected is None:
                return cls(check, "fail", str(fault), fault)
            return cls(check, "expected failure", f"{expected}\nfound: {fault.fault}", fault)
        if expected is not None:
            return cls(check, "fail", "it passes, though it is expected to fail: expect that no longer")
        return cls(check, "pass", remark or "")


def check(*kinds: type[Component], applies: Callable[[Any], bool] = lambda _: True) -> Callable[..., Check]:
    """Make a check of a function, for components of these kinds to which it applies."""

    def made(function: Callable[[Any], str | None]) -> Check:
        return Check(function, kinds, applies)

    return made


def raised_by(component: Component, error: Exception, on: str = "") -> ConformanceError:
    """What is wrong with a component that raised an exception: which one, and at which line of its code."""
    origin = origin_in(error, _packages(component))
    first = f"it raised {type(error).__name__}: {error}"
    fault = "\n".join(filter(None, (first, origin and f"at: {origin}")))
    return ConformanceError(fault, on, cause=f"{type(error).__name__} {origin}" if origin else first)


def _packages(component: Component) -> set[str]:
    """The packages that the component and those inside it are defined in; of prefopt the one below."""
    values = [getattr(component, name) for name in type(component).model_fields]
    parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    inner = [_packages(part) for part in parts if isinstance(part, Component)]
    names = type(component).__module__.split(".")
    return {".".join(names[: 2 if names[0] == "prefopt" else 1])}.union(*inner)


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
