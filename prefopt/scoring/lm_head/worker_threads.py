"""Work on a CPU dealt out to threads, each of which computes on its share of the cores.

Torch spreads a pass over a tensor over its threads, and waits for them after each. Where passes take less than a
millisecond, waking threads and waiting for the slowest costs a tenth of the time and more; threads that take different
blocks of the vocabulary meet at the end alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

_MOST_WORKERS = 16
"""However many threads there are: every worker has blocks of logits of its own."""


@final
@dataclass(frozen=True)
class Workers:
    """So many threads that compute side by side, each on so many of torch's."""

    count: int
    threads: int

    @classmethod
    def sharing_threads(cls, most: int) -> Workers:
        """Torch's threads shared among at most so many workers."""
        threads = torch.get_num_threads()
        count = max(1, min(threads, most, _MOST_WORKERS))
        return cls(count, threads // count)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Inside, this thread computes on one thread of torch's, so that none of those that it would wake spins beside
        the workers. Threads that compute for the first time meanwhile get few, too."""
        if self.count == 1:
            yield
            return
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(threads)

    def run(self, work: Callable[[int], None]) -> None:
        """work(0) to work(count - 1) at the same time, without gradients, in the caller's inference mode. Raises what
        one of them raises.

        One after the other in this thread where a dispatch mode, as of a counter of operations, sees this thread alone.
        """
        if self.count == 1 or _get_current_dispatch_mode() is not None:
            for worker in range(self.count):
                work(worker)
            return
        inference, following, futures = torch.is_inference_mode_enabled(), handed_out(self.count), []

        def take() -> None:
            with torch.inference_mode(inference), torch.no_grad():
                while (worker := following()) is not None:
                    work(worker)

        def take_on_share() -> None:
            if torch.get_num_threads() != self.threads:
                torch.set_num_threads(self.threads)
            take()

        for _ in range(self.count):
            try:
                futures.append(_pool().submit(take_on_share))
            except RuntimeError:  # no thread can be started, as while the interpreter exits
                take()
        wait(futures)  # all of them, before memory that they write to is used or freed
        for future in futures:
            future.result()


def handed_out(count: int) -> Callable[[], int | None]:
    """The numbers from 0 to count - 1, one a call, each to one thread; None when there are no more."""
    numbers, lock = iter(range(count)), Lock()

    def following() -> int | None:
        with lock:
            return next(numbers, None)

    return following


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay: torch keeps some memory of every thread that there was."""
    return ThreadPoolExecutor(_MOST_WORKERS, thread_name_prefix="prefopt-blocks")


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_pool.cache_clear)  # where these threads are not


@final
class OrderedSum:
    """A sum of tensors numbered from 0 that are added in this order, whatever the order in which threads bring them, so
    that its rounding is the same each time. Those that come early wait."""

    def __init__(self, total: Tensor) -> None:
        self.total = total
        self._early: dict[int, Tensor] = {}
        self._following = 0
        self._lock = Lock()

    def add(self, index: int, value: Tensor) -> None:
        """Add a value in its turn."""
        with self._lock:
            self._early[index] = value
            while self._following in self._early:
                self.total.add_(self._early.pop(self._following))
                self._following += 1
