"""The console's view of a comparison: a live display on a terminal, a line for each run elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from prefopt.progress import Report


@final
class Board:
    """A progress bar for all runs and, below it, one for each slot, which a run under way has; finished runs above."""

    def __init__(self, console: Console, slots: int = 1) -> None:
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._grid = self._progress.add_task("runs", total=None)
        self._slots = [self._progress.add_task("", total=None, visible=False) for _ in range(slots)]

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def begin(self, text: str, slot: int = 0) -> Report:
        """Show a run in the slot. Gives what is called with its progress."""
        bar, under_way = self._slots[slot], ""
        self._progress.reset(bar, total=None, description=escape(text), visible=True)

        def show(what: str, done: int, total: int | None) -> None:
            nonlocal under_way
            if what != under_way:  # the time that is left is that of this part
                under_way = what
                self._progress.reset(bar, total=total, description=escape(f"{text}: {what}"))
            self._progress.update(bar, completed=done, total=total)

        return show

    def end(self, text: str, done: int, total: int, *, failed: bool = False, slot: int = 0) -> None:
        """The run of that slot is over, as are `done` runs of all."""
        self._progress.update(self._slots[slot], visible=False)
        self.count(done, total)
        self._console.print(f"{done}/{total}  {escape(text)}", style="red" if failed else None, soft_wrap=True)

    def count(self, done: int, total: int) -> None:
        """Set how many runs are over, of how many."""
        self._progress.update(self._grid, completed=done, total=total)
