"""What the console shows of a comparison: one display on a terminal, a line for each run elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self, final

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
from transformers import Trainer, TrainerCallback

__all__ = ["Board", "Steps", "follow"]


class Steps(Protocol):
    """Who is told how far a run has come."""

    def total(self, steps: int) -> None: ...

    def step(self) -> None: ...


@final
class Board:
    """The grid and, below it, the runs under way, each in its place; what is finished is said above."""

    def __init__(self, console: Console, places: int = 1) -> None:
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._grid = self._progress.add_task("runs", total=None)
        self._places = [self._progress.add_task("", total=None, visible=False) for _ in range(places)]

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def begin(self, text: str, place: int = 0) -> Steps:
        """A run begins; how many steps it has is not known yet."""
        self._progress.reset(self._places[place], total=None, description=escape(text), visible=True)
        return _Line(self._progress, self._places[place])

    def end(self, text: str, done: int, total: int, *, failed: bool = False, place: int = 0) -> None:
        """The run of that place is over; so are `done` of all."""
        self._progress.start()  # it may have failed while the display was off
        self._progress.update(self._places[place], visible=False)
        self.count(done, total)
        self._console.print(f"{done}/{total}  {escape(text)}", style="red" if failed else None, soft_wrap=True)

    def count(self, done: int, total: int) -> None:
        """How many runs there are, and are over: others may be at them, too."""
        self._progress.update(self._grid, completed=done, total=total)

    def pause(self) -> None:
        """Leave the terminal to another display, until the next step."""
        self._progress.stop()


@final
class _Line:
    """A run's place on the board."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def total(self, steps: int) -> None:
        self._progress.start()
        self._progress.update(self._task, total=steps)

    def step(self) -> None:
        self._progress.advance(self._task)


def follow(trainer: Trainer, steps: Steps) -> None:
    """Tell of each of the trainer's steps."""
    trainer.add_callback(_Told(steps))


@final
class _Told(TrainerCallback):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._steps.total(state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._steps.step()
