"""Memory of this process, as Linux counts it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def anonymous_memory() -> int:
    """Bytes in memory that no file backs: pages of mapped files may be dropped at any time, these may not."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssShmem"))


def slope(steps: Sequence[int], sizes: Sequence[int]) -> float:
    """Bytes per step, by least squares."""
    return float(np.polynomial.Polynomial.fit(steps, sizes, 1).convert().coef[1])


@contextmanager
def watched(every: float = 0.02) -> Iterator[list[int]]:
    """[bytes before, most bytes meanwhile], the latter known in the end; looked at so often, in seconds."""
    sizes, over = [anonymous_memory()] * 2, threading.Event()

    def watch() -> None:
        while not over.wait(every):
            sizes[1] = max(sizes[1], anonymous_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()
        sizes[1] = max(sizes[1], anonymous_memory())
