"""Progress of what takes seconds and more: a bar on the terminal with the time that is left, or a report of it."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, final

__all__ = ["Report", "Stopwatch", "current_report", "reporting_to", "shown", "tracked"]

T = TypeVar("T")

Report = Callable[[str, int, int | None], None]
"""Called with what is done, how much of it is, and of how much; None where that is not known."""

_REPORT: ContextVar[Report | None] = ContextVar("progress", default=None)

_SECONDS = 0.1
"""Between reports."""


def _nowhere(what: str, done: int, total: int | None) -> None:
    """No report."""


@contextmanager
def reporting_to(report: Report | None) -> Iterator[None]:
    """Within it, progress is reported there instead of on a bar of its own; None: where it is now, and otherwise
    nowhere, as where another library has a bar."""
    before = _REPORT.get()
    _REPORT.set(report or before or _nowhere)
    try:
        yield
    finally:
        _REPORT.set(before)


def current_report() -> Report:
    """Where progress is reported; nowhere outside of `reporting_to`."""
    return _REPORT.get() or _nowhere


@final
class Stopwatch:
    """A Report that passes on what it is told, and adds up the `seconds` of what is done, by its words."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._begun: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.perf_counter()
        if done:
            self.seconds[what] = self.seconds.get(what, 0.0) + now - self._begun.get(what, now)
        self._begun[what] = now
        self._report(what, done, total)


def tracked(items: Iterable[T], what: str, total: int | None = None, *, hidden: bool = False) -> Iterator[T]:
    """The items one by one, with their progress: on a bar on standard error, where that is a terminal and no other bar
    is there, or where `reporting_to` says.

    what    is done, in a word or two
    total   how many they are, where they do not tell
    hidden  whether there is to be no bar
    """
    total = total or operator.length_hint(items) or None
    with shown(what, total, hidden=hidden) as show:
        show(what, 0, total)
        done, last = 0, time.monotonic()
        for item in items:
            yield item
            done += 1
            if (now := time.monotonic()) - last >= _SECONDS:
                show(what, done, total)
                last = now
        show(what, done, total)


@contextmanager
def shown(what: str, total: int | None = None, *, hidden: bool = False) -> Iterator[Report]:
    """Gives what is called with the progress of something that is no loop of ours. Arguments as for `tracked`."""
    if (report := _REPORT.get()) is not None:
        yield report
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from prefopt.printing import PrintableConsole

    console = PrintableConsole(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    is_hidden = hidden or not console.is_terminal
    with reporting_to(None), Progress(*columns, *times, console=console, transient=True, disable=is_hidden) as progress:
        bar = progress.add_task(escape(what), total=total)
        yield lambda _, done, total: progress.update(bar, completed=done, total=total)
