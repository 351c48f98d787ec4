"""The console's view of a comparison: a live display on a terminal, a line for each run elsewhere."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS = 0.5
"""Between looks at what runs report."""


@final
class Board:
    """A progress bar for all runs and, below it, one for each run under way; finished runs above.

    progress  the folder in which runs report (see `Call`)
    """

    def __init__(self, console: Console, progress: Path) -> None:
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._console = console
        self._folder = progress
        self._progress = Progress(
            TextColumn("{task.description}"), *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._grid = self._progress.add_task("runs", total=None)
        self._bars: dict[str, tuple[TaskID, str]] = {}
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._refresh_until_the_end, daemon=True)

    def __enter__(self) -> Self:
        self._progress.start()
        if self._console.is_terminal:
            self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._progress.stop()

    def end(self, text: str, done: int, total: int, *, failed: bool = False) -> None:
        """A run is over, as are `done` runs of all."""
        self.count(done, total)
        self._console.print(f"{done}/{total}  {escape(text)}", style="red" if failed else None, soft_wrap=True)

    def count(self, done: int, total: int) -> None:
        """Set how many runs are over, of how many."""
        self._progress.update(self._grid, completed=done, total=total)

    def refresh(self) -> None:
        """Show what the runs under way report."""
        reports = {path.stem: path for path in sorted(self._folder.glob("*.json"))}
        for key in self._bars.keys() - reports.keys():
            self._progress.remove_task(self._bars.pop(key)[0])
        for key, path in reports.items():
            try:
                run, what, done, total = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # it is over, or just being written
                continue
            text = f"{run}: {what}" if what else run
            bar, shown = self._bars.get(key) or (self._progress.add_task(escape(text), total=total), text)
            if text != shown:  # the time that is left is that of this part
                self._progress.reset(bar, total=total, description=escape(text))
            self._bars[key] = (bar, text)
            self._progress.update(bar, completed=done, total=total)

    def _refresh_until_the_end(self) -> None:
        while not self._ended.wait(_SECONDS):
            self.refresh()
