"""A worker process, which executes the runs that it is sent, one after the other: its handle, and its program."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, final

from prefopt.comparison.execute import execute, failure
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import Record
from prefopt.progress import Report, reporting_to

_READY, _PROGRESS, _RECORD, _FULL = "ready", "progress", "record", "full"
"""Kinds of message: the worker has started; what of its run is done, how much and of how much; the record of its run;
the OSError of a full disk, which ends the comparison."""

_GRACE_SECONDS = 10.0
"""How long a worker may take to end after a signal."""

_LOG_TAIL = 4000
"""Characters of a dead worker's output that go into the record of its run."""


@final
class WorkerError(RuntimeError):
    """Workers cannot be started, or cannot import what the runs consist of."""


@final
class Worker:
    """A worker process as the process that started it sees it: the connection to it, and its run, if it has one.

    Its output goes to a file. It has a session to itself: an interrupt from the keyboard reaches its starter
    alone, and the worker can be ended with all that it started.
    """

    def __init__(self, command: tuple[list[str], dict[str, str]], log: Path) -> None:
        self.run: Run | None = None
        self._report: Report | None = None
        self._ready = False
        self._log = log
        self.connection, theirs = Pipe()
        arguments, env = command
        # Behind what earlier workers left, which is nowhere else in full.
        with log.open("ab") as out, theirs:
            self._begins = out.tell()
            self._process = subprocess.Popen(
                arguments, env=env, stdin=theirs.fileno(), stdout=out, stderr=out, start_new_session=True
            )

    @property
    def dead(self) -> bool:
        """Whether it has ended and all its messages are received."""
        return self._process.poll() is not None and not self.connection.poll()

    def start(self, run: Run, folder: Path, report: Report) -> None:
        self.run, self._report = run, report
        with suppress(OSError):  # it has died, which `receive` reports
            self.connection.send((run, folder))

    def receive(self) -> Record | None:
        """Take in the next message, or the worker's death: the record of the run, if that is it.

        Raises WorkerError where it died before it had started, as others would, and OSError where a disk is full.
        """
        assert self.run is not None
        assert self._report is not None
        content: Any
        try:
            kind, content = (_RECORD, self._death()) if self.dead else self.connection.recv()
        except (EOFError, OSError):
            kind, content = _RECORD, self._death()
        self._ready = self._ready or kind == _READY
        if kind == _FULL:
            raise content
        if kind == _PROGRESS:
            self._report(*content)
        return content if kind == _RECORD else None

    def stop(self, *, at_once: bool) -> None:
        """Ask it to end: in the middle of its run, or after it."""
        if at_once:
            self._signal(signal.SIGTERM)
        else:
            with suppress(OSError):
                self.connection.send(None)

    def join(self) -> None:
        """Wait for its end, then kill what is left of it and of what it started."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self.connection.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _death(self) -> Record:
        assert self.run is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        code = self._process.wait()
        output = self._log.read_bytes()[self._begins :].decode(errors="replace")[-_LOG_TAIL:]
        if not self._ready:
            raise WorkerError(f"a process for runs does not start (exit code {code}):\n{output}")
        if code >= 0:
            return failure(self.run, f"WorkerDied: the run's process ended with exit code {code}", output)
        reason = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        error = f"WorkerDied: the run's process was ended by {signal.Signals(-code).name}{reason}"
        return failure(self.run, error, output)


def main() -> None:
    """Take (run, folder) after (run, folder) from standard input, which is a connection, until None comes.

    The worker ends with the process that started it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    connection: Connection[Any, Any] = Connection(os.dup(sys.stdin.fileno()))
    with open(os.devnull, "rb") as empty:
        os.dup2(empty.fileno(), sys.stdin.fileno())  # runs have no input
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, orders), daemon=True).start()
    connection.send((_READY, None))

    def send_progress(what: str, done: int, total: int | None) -> None:
        connection.send((_PROGRESS, (what, done, total)))

    while (order := orders.get()) is not None:
        run, folder = order
        try:
            with reporting_to(send_progress):
                record = execute(run, folder)
            connection.send((_RECORD, record))
        except OSError as error:
            connection.send((_FULL, error))


def _receive(connection: Connection[Any, Any], orders: queue.SimpleQueue[Any]) -> None:
    try:
        while (order := connection.recv()) is not None:
            orders.put(order)
        orders.put(None)
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)


if __name__ == "__main__":
    main()
