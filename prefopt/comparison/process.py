"""A worker as the process that started it sees it."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, final

from prefopt.comparison.attempt import lost
from prefopt.comparison.launch import Command, PoolError
from prefopt.comparison.progress import Steps
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record
from prefopt.comparison.worker import GRACE, READY, RECORD, STEP, TOTAL

__all__ = ["WorkerProcess"]

_TAIL = 4000
"""Characters of what a worker said last that go into the record of its death."""


@final
class WorkerProcess:
    """A process of `prefopt.comparison.worker` with the connection to it, and its run, if it has one.

    What it prints goes to a file. It has a session of its own, so that an interrupt from the keyboard reaches its
    starter alone, and so that it can be ended with all that it started.
    """

    def __init__(self, command: Command, folder: Path, said: Path) -> None:
        self.run: Run | None = None
        self._steps: Steps | None = None
        self._ready = False
        self._folder = folder.absolute()
        self._said = said
        self.channel, theirs = Pipe()
        arguments, env = command
        with said.open("wb") as out, theirs:
            self._process = subprocess.Popen(
                arguments, env=env, stdin=theirs.fileno(), stdout=out, stderr=out, start_new_session=True
            )

    @property
    def dead(self) -> bool:
        """It has ended, and nothing is left to hear from it."""
        return self._process.poll() is not None and not self.channel.poll()

    def begin(self, run: Run, steps: Steps) -> None:
        self.run, self._steps = run, steps
        with suppress(OSError):  # it has died, which is found out when it is listened to
            self.channel.send((run, self._folder))

    def hear(self) -> Record | None:
        """Take in what it says next, or that it died: the record of the run, where that is it.

        Raises PoolError where it died before it had started: others would, too.
        """
        assert self.run is not None
        assert self._steps is not None
        message: tuple[str, Any] | None = None
        with suppress(EOFError, OSError):
            message = None if self.dead else self.channel.recv()
        if message is None:
            return lost(self.run, self._death(), self._last_words())
        kind, what = message
        if kind == READY:
            self._ready = True
        elif kind == TOTAL:
            self._steps.total(what)
        elif kind == STEP:
            self._steps.step()
        return what if kind == RECORD else None

    def ask_to_end(self, *, at_once: bool) -> None:
        """After what it is at, or, at once, in the middle of it."""
        if at_once:
            self._signal(signal.SIGTERM)
        else:
            with suppress(OSError):
                self.channel.send(None)

    def end(self) -> None:
        """Wait for it a little, then end what is left of it and of what it started."""
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=GRACE)
        finally:
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self.channel.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _death(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=GRACE)
        self._signal(signal.SIGKILL)
        code = self._process.wait()
        if not self._ready:
            raise PoolError(f"a process for runs does not start (exit code {code}):\n{self._last_words()}")
        if code >= 0:
            return f"WorkerDied: the run's process ended with exit code {code}"
        why = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        return f"WorkerDied: the run's process was ended by {signal.Signals(-code).name}{why}"

    def _last_words(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
