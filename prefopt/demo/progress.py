"""What the console shows: numbered stages, with a bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import PrinterCallback, Trainer, TrainerCallback

__all__ = ["Stage", "Stages", "show_training"]


class Stage:
    """A stage under way: on a terminal a bar with a few words beside it, elsewhere a line at every quarter."""

    def __init__(self, console: Console, progress: Progress, label: str, total: int) -> None:
        self.last_note = ""
        self._console = console
        self._progress = progress
        self._task = progress.add_task(escape(label), total=total, note="")
        self._total = total
        self._done = self._told = 0

    def advance(self, steps: int = 1) -> None:
        """So many steps further."""
        self._done += steps
        self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        """What is to be said of the stage by now."""
        self.last_note = text
        self._progress.update(self._task, note=escape(text))
        if not self._console.is_terminal and (quarter := 4 * self._done // self._total) > self._told:
            self._told = quarter
            self._console.print(f"  {self._done}/{self._total}  {text}", highlight=False, markup=False)


class Stages:
    """The stages of a run, numbered; `seconds` holds how long each took."""

    def __init__(self, console: Console, count: int) -> None:
        self.console = console
        self.count = count
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Show a stage of `total` steps while the block runs."""
        label = f"{len(self.seconds) + 1}/{self.count} {name}"
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        terminal = self.console.is_terminal
        if not terminal:
            self.console.print(label, highlight=False, markup=False)
        start = time.perf_counter()
        with Progress(
            *columns, TextColumn("{task.fields[note]}"), console=self.console, transient=True, disable=not terminal
        ) as progress:
            stage = Stage(self.console, progress, label, total)
            yield stage
        self.seconds[name] = time.perf_counter() - start
        if terminal:
            self.console.print(f"{label}: {self.seconds[name]:.0f} s  {stage.last_note}", highlight=False, markup=False)
        else:
            self.console.print(f"  {self.seconds[name]:.0f} s", highlight=False, markup=False)


class _Bar(TrainerCallback):
    """Moves a stage with a Trainer, and notes what it logs."""

    def __init__(self, stage: Stage, shown: dict[str, str]) -> None:
        self.stage = stage
        self.shown = shown

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stage.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        known = [f"{label} {float(logs[key]):.3f}" for key, label in self.shown.items() if logs and key in logs]
        if known:
            self.stage.note("  ".join(known))


def show_training(trainer: Trainer, stage: Stage, shown: dict[str, str]) -> None:
    """Let the stage follow the trainer, in place of printed dictionaries; `shown` maps logged names to labels."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Bar(stage, shown))
