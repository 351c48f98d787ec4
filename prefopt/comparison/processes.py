"""An executor of processes of which each may die alone, on the standard library's pools of one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, final

_GRACE_SECONDS = 10.0
"""How long a process may take to end."""

_STARTING = threading.Lock()


class WorkerDied(RuntimeError):  # noqa: N818
    """The process of a run ended before the run did; so it is called in records."""


@final
class ProcessesExecutor(Executor):
    """Processes that carry out a call each at a time; a death raises WorkerDied from its call alone.

    environments  of each process, laid over ours before torch starts there; OMP_NUM_THREADS is among them
    spoils        whether the process that gave this result is not to be used again
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], *, spoils: Callable[[Any], bool]) -> None:
        self._slots = [_Slot(environment, spoils) for environment in environments]
        self._free: queue.LifoQueue[_Slot] = queue.LifoQueue()  # a process that has started comes first
        for slot in reversed(self._slots):
            self._free.put(slot)
        self._threads = ThreadPoolExecutor(len(environments))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future raises BrokenExecutor where no process starts, or none can import what is called."""
        return self._threads.submit(self._call, partial(fn, *args, **kwargs))

    def _call(self, call: Callable[[], Any]) -> Any:
        slot = self._free.get()
        try:
            return slot.call(call)
        finally:
            self._free.put(slot)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, once their calls are over."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for slot in self._slots if wait else ():
            slot.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the processes; with an error, their calls as well."""
        for slot in self._slots if kind is not None else ():
            slot.interrupt()
        self.shutdown(cancel_futures=kind is not None)


@final
class _Slot:
    """A process, which starts when there is a call for it, and is replaced when it dies, raises or is spoilt.

    It has a session to itself: an interrupt from the keyboard reaches the process that started it alone, and it can be
    ended with all that it started.
    """

    def __init__(self, environment: Mapping[str, str], spoils: Callable[[Any], bool]) -> None:
        self._environment = dict(environment)
        self._spoils = spoils
        self._pool: ProcessPoolExecutor | None = None
        self._process: Any = None
        self._is_busy = self._is_interrupted = False

    def call(self, call: Callable[[], Any]) -> Any:
        self._is_busy = True
        try:
            pool = self._pool or self._start()
            if self._is_interrupted:
                raise KeyboardInterrupt
            outcome = pool.submit(_call, pickle.dumps(call)).result()
        except BrokenProcessPool:
            raise WorkerDied(f"the run's process {self.close()}") from None
        except BaseException:
            self.close()
            raise
        finally:
            self._is_busy = False
        if self._spoils(outcome):
            self.close()
        return outcome

    def _start(self) -> ProcessPoolExecutor:
        with _STARTING:
            others = set(multiprocessing.active_children())
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (self._environment,))
            started = self._pool.submit(os.getpid)
            (self._process,) = set(multiprocessing.active_children()) - others
        try:
            started.result()
        except BrokenProcessPool:
            raise BrokenExecutor(
                f"a process for runs does not start: it {self.close()}; what it printed says why. A script that "
                'compares in several processes does so under `if __name__ == "__main__":`'
            ) from None
        return self._pool

    def close(self) -> str:
        """End the process, once its call is over, and kill what it leaves; how it ended, in words."""
        if self._pool is None:
            return ""
        reaper = self._kill_later()
        self._pool.shutdown()
        reaper.cancel()
        self._kill()
        self._pool, code = None, self._process.exitcode
        if code >= 0:
            return f"ended with exit code {code}"
        reason = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{reason}"

    def interrupt(self) -> None:
        """End the call, and with it the process."""
        self._is_interrupted = True
        if self._is_busy and self._process is not None:
            self._process.terminate()
            self._kill_later()

    def _kill_later(self) -> threading.Timer:
        timer = threading.Timer(_GRACE_SECONDS, self._kill)
        timer.daemon = True
        timer.start()
        return timer

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _begin(environment: Mapping[str, str]) -> None:
    """Begin a process, which ends with the one that started it. This module imports no torch, which is to start with
    the environment."""
    os.setsid()
    os.environ.update(environment)
    threads = int(environment["OMP_NUM_THREADS"])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)  # the script that compares may have imported torch


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _call(pickled: bytes) -> Any:
    try:
        call = pickle.loads(pickled)
    except (AttributeError, ImportError) as error:
        raise BrokenExecutor(
            f"processes for runs cannot import what these consist of ({error}); move it into a module, or compare with "
            "processes=1"
        ) from error
    return call()
