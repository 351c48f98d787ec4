"""What the console shows of a comparison: one display on a terminal, a line for each run elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import Trainer, TrainerCallback

__all__ = ["Board"]


@final
class Board:
    """The grid and, below it, the run under way; what is finished is said above."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._grid = self._progress.add_task("runs", total=total, completed=done)
        self._run = self._progress.add_task("", total=None)
        self._total, self._done = total, done

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def add(self, count: int) -> None:
        """So many runs come in addition."""
        self._total += count
        self._progress.update(self._grid, total=self._total)

    def begin(self, text: str) -> None:
        """A run begins; how many steps it has is not known yet."""
        self._progress.reset(self._run, total=None, description=escape(text))

    def end(self, text: str, *, failed: bool = False) -> None:
        """The run that began last is over."""
        self._progress.start()  # it may have failed while the display was off
        self._done += 1
        self._progress.advance(self._grid)
        self._console.print(
            f"{self._done}/{self._total}  {escape(text)}", style="red" if failed else None, soft_wrap=True
        )

    def follow(self, trainer: Trainer) -> None:
        """Move with the trainer. Until its first step the display is off: filling the reference cache has its own."""
        self._progress.stop()
        trainer.add_callback(_Steps(self._progress, self._run))


class _Steps(TrainerCallback):
    def __init__(self, progress: Progress, task: Any) -> None:
        self.progress = progress
        self.task = task

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.start()
        self.progress.update(self.task, total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.advance(self.task)
