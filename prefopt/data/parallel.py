"""Rows through a function in several processes, with results in the order of the rows."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pickle import PicklingError
from typing import Any, TypeVar

from prefopt.data.rows import DataError

R = TypeVar("R")
T = TypeVar("T")

_CHUNK = 200
"""Rows that are sent to a process at a time."""

_AHEAD = 2
"""Chunks of each process that are read ahead."""

_function: Callable[[Any], Any]
"""What a process applies."""


@contextmanager
def mapping(function: Callable[[R], T], processes: int) -> Iterator[Callable[[Iterable[R]], Iterator[tuple[R, T]]]]:
    """A context with a function: rows -> each with its result, in their order, errors included.

    processes  1: this one alone. Others are forked where they can be; then neither the function nor what it holds is
               copied. Raises DataError where one of them dies, or a row cannot be sent to it
    """
    if processes == 1:
        yield lambda rows: ((row, function(row)) for row in rows)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(function,)) as pool:
        with warnings.catch_warnings():  # the forks use no thread's lock: tokenizers' own threads are off in them
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            pool.submit(int).result()
        try:
            yield lambda rows: _mapped(pool, rows, _AHEAD * processes)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _mapped(pool: ProcessPoolExecutor, rows: Iterable[R], ahead: int) -> Iterator[tuple[R, Any]]:
    chunks, pending = _chunks(rows), deque[tuple[list[R], Future[list[Any]]]]()
    failure: Exception | None = None
    is_read = False
    while True:
        while not is_read and len(pending) < ahead:
            try:
                chunk = next(chunks, None)
            except Exception as error:  # of reading, after rows whose own errors come first
                failure, chunk = error, None
            if chunk is None:
                is_read = True
            else:
                pending.append((chunk, pool.submit(_apply, chunk)))
        if not pending:
            break
        chunk, future = pending.popleft()
        yield from zip(chunk, _result(future), strict=True)
    if failure is not None:
        raise failure


def _result(future: Future[list[Any]]) -> list[Any]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that prepares rows has died, as where memory runs out; set dataset_num_proc lower, or "
            "leave it out"
        ) from error
    except (PicklingError, AttributeError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        raise DataError(
            f"a row cannot be sent to another process ({error}); give plain values, or leave dataset_num_proc out"
        ) from error


def _chunks(rows: Iterable[R]) -> Iterator[list[R]]:
    """The rows in lists; those before an error of reading come before it."""
    chunk: list[R] = []
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            break
        except Exception:
            if chunk:
                yield chunk
            raise
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads that were not forked with the process


def _apply(rows: list[Any]) -> list[Any]:
    return [_function(row) for row in rows]
