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
from functools import cache
from threading import Lock
from typing import final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

MOST_WORKERS = 16
"""However many threads there are: every worker has blocks of logits of its own."""


@contextmanager
def threads_shared_among(workers: int) -> Iterator[None]:
    """Inside, this thread computes on its share of torch's threads, and so do threads that start."""
    if workers == 1:
        yield
        return
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(max(1, threads // workers))
        yield
    finally:
        torch.set_num_threads(threads)


def run_in_threads(work: Callable[[int], None], workers: int) -> None:
    """work(0) to work(workers - 1) in threads that compute as this one: on as many threads of torch's, without
    gradients, in its inference mode. Raises what the first of them raises.

    One after the other in this thread where a dispatch mode, as of a counter of operations, sees this thread alone.
    """
    if workers == 1 or _get_current_dispatch_mode() is not None:
        for worker in range(workers):
            work(worker)
        return
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def run(worker: int) -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode(inference), torch.no_grad():
            work(worker)

    futures = [_pool().submit(run, worker) for worker in range(workers)]
    wait(futures)  # all of them, before memory that they write to is used or freed
    for future in futures:
        future.result()


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay: torch keeps some memory of every thread that there was."""
    return ThreadPoolExecutor(MOST_WORKERS, thread_name_prefix="prefopt-blocks")


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
