"""A process that carries out the runs that it is sent, one after the other; `prefopt.comparison.pool` starts it."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, final

from prefopt.comparison.attempt import attempt
from prefopt.comparison.progress import follow

__all__ = ["GRACE", "READY", "RECORD", "STEP", "TOTAL", "main"]

READY, TOTAL, STEP, RECORD = "ready", "total", "step", "record"
"""What a worker tells: that it is there; how many steps the run has; that one is done; what became of the run."""

GRACE = 10.0
"""Seconds that a worker has to put away what it was at."""


def main() -> None:
    """Take (run, folder) after (run, folder) from standard input, which is a connection, until None comes.

    Where whoever sends them is gone, the worker ends as well.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    channel: Connection[Any, Any] = Connection(os.dup(sys.stdin.fileno()))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())  # runs have no input
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(channel, orders), daemon=True).start()
    channel.send((READY, None))
    while (order := orders.get()) is not None:
        run, folder = order
        channel.send((RECORD, attempt(run, folder, show=partial(follow, steps=_Sent(channel)))))


@final
class _Sent:
    """Steps, told to whoever sent the run."""

    def __init__(self, channel: Connection[Any, Any]) -> None:
        self._channel = channel

    def total(self, steps: int) -> None:
        self._channel.send((TOTAL, steps))

    def step(self) -> None:
        self._channel.send((STEP, None))


def _receive(channel: Connection[Any, Any], orders: queue.SimpleQueue[Any]) -> None:
    try:
        while (order := channel.recv()) is not None:
            orders.put(order)
        orders.put(None)
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)


if __name__ == "__main__":
    main()
