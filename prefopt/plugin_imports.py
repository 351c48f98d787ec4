"""The import of a plugin: what takes too long, or would end this process, is an error that names it."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, final

__all__ = ["TIME_LIMIT", "ImportStoppedError", "limited_import", "time_limit"]

TIME_LIMIT = "PREFOPT_PLUGIN_TIMEOUT"
"""The environment variable with the seconds that the import of a plugin may take; 0: as long as it likes."""

_SECONDS = 120.0


@final
class ImportStoppedError(BaseException):
    """An import that was stopped; no Exception, so that a plugin's own `except Exception` does not keep it."""


def time_limit() -> float:
    """Seconds that the import of a plugin may take; 0: no limit. Raises ValueError for what is no such number."""
    text = os.environ.get(TIME_LIMIT, "").strip() or str(_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{TIME_LIMIT}: {text!r} is no number of seconds; it is 0, for no limit, or a number above it")
    return seconds


@contextmanager
def limited_import() -> Iterator[None]:
    """A context in which an import may take `time_limit`, and `os._exit` of this process raises.

    Raises ImportStoppedError, which says of what. The time is limited in the main thread, of systems with SIGALRM, and
    where Python code runs: one call into C that never returns is not stopped. What ends the process from C is not
    either.
    """
    with _no_exit(), _no_longer_than(time_limit()):
        yield


@contextmanager
def _no_exit() -> Iterator[None]:
    leave = os._exit
    importing, process = True, os.getpid()

    def refuse(status: int) -> NoReturn:
        if importing and os.getpid() == process:  # a process that the plugin forks may end
            raise ImportStoppedError(f"it ends the process (os._exit({status}))")
        leave(status)

    os._exit = refuse
    try:
        yield
    finally:
        importing = False
        os._exit = leave


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    if not seconds or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        where = f", at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
        raise ImportStoppedError(f"it takes more than {seconds:g} seconds{where}; {TIME_LIMIT} sets the limit")

    handler = signal.signal(signal.SIGALRM, stop)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, handler)
