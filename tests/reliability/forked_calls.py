"""Calls of a function in processes of their own, which fork from one that has imported all of it, and are killed."""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

from tests.forked import Serving

_LIMIT = 300
"""Seconds in which a call of these tests ends."""


class Order(NamedTuple):
    """The folder of a call, how many processes make it at once, after how many seconds some of them are killed, and
    how many of them."""

    out: Path
    processes: int
    delay: float | None
    victims: int


class End(NamedTuple):
    """How many processes were killed, and seconds until the last was over."""

    killed: int
    seconds: float


class ForkedCalls(Serving):
    """Calls of a function with a folder.

    prepare  is called once, in the process that the others fork from; gives the function
    """

    def __init__(self, prepare: Callable[[], Callable[[Path], None]], log: Path) -> None:
        super().__init__(_serve, prepare, log)
        self._log = log

    def call(self, out: Path, *, processes: int = 1, delay: float | None = None, victims: int = 1) -> End:
        """Call the function in so many processes at once, and kill the victims after a delay, if there is one."""
        codes, seconds = self.ask(Order(out, processes, delay, victims))
        assert set(codes) <= {0, -signal.SIGKILL}, (codes, self._log.read_text()[-3000:])
        return End(codes.count(-signal.SIGKILL), seconds)


def _serve(connection: Connection, prepare: Callable[[], Callable[[Path], None]], log: Path) -> None:
    """Carry out each order, and answer with exit codes, negative for a signal, and seconds."""
    torch.set_num_threads(1)
    function = prepare()
    gc.collect()
    gc.freeze()  # every call collects garbage, which walks all that the libraries made when they were imported
    while (order := connection.recv()) is not None:
        connection.send(_carry_out(function, order, log))


def _carry_out(function: Callable[[Path], None], order: Order, log: Path) -> tuple[list[int], float]:
    start = time.monotonic()
    children = [os.fork() or _call(function, order.out, log) for _ in range(order.processes)]
    codes: dict[int, int] = {}
    delay = _LIMIT if order.delay is None else order.delay
    victims = children if order.delay is None else children[: order.victims]
    struck = False
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (status := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(status[1])
        if not struck and time.monotonic() - start >= delay:
            struck = True
            for child in victims:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.0005)
    return [codes[child] for child in children], time.monotonic() - start


def _call(function: Callable[[Path], None], out: Path, log: Path) -> NoReturn:
    with log.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    code = 1
    try:
        function(out)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)
