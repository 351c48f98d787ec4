"""Work on a CPU dealt out to threads, each of which computes on its share of the cores.

Torch spreads a pass over a tensor over its threads, and waits for them after each. Where passes take less than a
millisecond, waking threads and waiting for the slowest costs a tenth of the time and more; threads that take different
blocks of the vocabulary meet at the end alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode


def run_in_threads(work: Callable[[int], None], count: int) -> None:
    """work(0) to work(count - 1), each in a thread of its own with torch.get_num_threads() // count threads of torch's,
    without gradients, in the inference mode of the caller. Raises what the first of them raises.

    One after the other in this thread where a dispatch mode, as of a counter of operations, sees this thread alone.
    """
    if count == 1 or _get_current_dispatch_mode() is not None:
        for index in range(count):
            work(index)
        return
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    started = Semaphore(0)

    def run(index: int) -> None:
        try:
            torch.get_num_threads()  # a thread's first call sets its number to the process's
            torch.set_num_threads(max(1, threads // count))
        finally:
            started.release()
        with torch.inference_mode(inference), torch.set_grad_enabled(False):
            work(index)

    with ThreadPoolExecutor(count, thread_name_prefix="prefopt-blocks") as pool:
        futures = [pool.submit(run, index) for index in range(count)]
        for _ in futures:
            started.acquire()
        torch.set_num_threads(threads)  # the process's number, too, which threads that start later take
        for future in futures:
            future.result()
