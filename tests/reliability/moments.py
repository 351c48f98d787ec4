"""The moments of a run at which it can be killed: its steps, and what it does to files; and the time between them."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from transformers import Trainer

from prefopt.training import saving

TRAINING = "training"
WRITING = "writing a checkpoint"
RENAMING = "syncing and renaming a checkpoint"
ROTATING = "removing an older checkpoint"
SAVING = "writing the policy"
MOVING = "syncing and moving the policy's files"

PHASES = (TRAINING, WRITING, RENAMING, ROTATING, SAVING, MOVING)

CHECKPOINT = frozenset({WRITING, RENAMING, ROTATING})
"""While a checkpoint is being written."""

LIMIT = 120
"""Seconds in which a run of these tests ends."""


class Moment(NamedTuple):
    """What a run does, and seconds since its first moment."""

    phase: str
    seconds: float


class Kill(NamedTuple):
    """The number of the moment, from 1, and seconds after it; without any, the moment comes no further."""

    moment: int
    delay: float


@dataclass(frozen=True)
class Board:
    """A file in which a run says how many moments it has seen, and what it does; it outlives the run."""

    path: Path

    def clear(self) -> None:
        self.path.write_bytes(struct.pack("<qq", 0, 0))

    def open(self) -> mmap.mmap:
        with self.path.open("r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    def read(self) -> tuple[int, str]:
        """The number of moments, and the phase since the last one."""
        count, phase = struct.unpack("<qq", self.path.read_bytes())
        return count, PHASES[phase]


def draw_kill(moments: Sequence[Moment], phases: frozenset[str], draw: random.Random, *, at_moment: bool) -> Kill:
    """A kill in these phases: at one of their moments, or at a time that is drawn from all that they take."""
    inside = [index for index in range(len(moments) - 1) if moments[index].phase in phases]
    if at_moment:
        return Kill(draw.choice(inside) + 1, 0.0)
    gaps = [moments[index + 1].seconds - moments[index].seconds for index in inside]
    (index,) = draw.choices(range(len(inside)), gaps)
    return Kill(inside[index] + 1, max(1e-9, draw.uniform(0, gaps[index])))


def strike(board: Board, kill: Kill | None, is_over: Callable[[], bool], stop: Callable[[], None]) -> None:
    """Wait for a run to be over, and stop it at its moment; a kill without delay the run does itself."""
    start = time.monotonic()
    while not is_over():
        if time.monotonic() - start > LIMIT:
            stop()
            log = board.path.with_name("log").read_text()[-5000:]
            raise TimeoutError(f"a run was not over in {LIMIT} seconds; it was at {board.read()}\n{log}")
        if kill is not None and kill.delay and board.read()[0] >= kill.moment:
            time.sleep(kill.delay)
            stop()
            return
        time.sleep(0.0002)


def observe(board: Board, kill: Kill | None) -> list[Moment]:
    """From here on, note this process's moments on the board and in the list that is returned."""
    shown, phases, moments = board.open(), [TRAINING], list[Moment]()
    start = time.monotonic()

    def mark() -> None:
        moments.append(Moment(phases[-1], time.monotonic() - start))
        shown[:] = struct.pack("<qq", len(moments), PHASES.index(phases[-1]))
        if kill is not None and not kill.delay and len(moments) == kill.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(owner: Any, name: str, phase: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def watched(*arguments: Any, **options: Any) -> Any:
            # A checkpoint is saved with `save_model` too.
            phases.append(phase if phase != SAVING or phases == [TRAINING] else phases[-1])
            mark()
            try:
                return function(*arguments, **options)
            finally:
                phases.pop()
                mark()

        setattr(owner, name, watched)

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if phases[-1] == TRAINING:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}:
            mark()

    watch(Trainer, "training_step", TRAINING)
    watch(saving.SavingTrainer, "_save_checkpoint", WRITING)
    watch(saving, "publish_folder", RENAMING)
    watch(saving.SavingTrainer, "_remove_older", ROTATING)
    watch(saving.SavingTrainer, "save_model", SAVING)
    watch(saving, "publish_files", MOVING)
    sys.addaudithook(on_event)
    return moments
