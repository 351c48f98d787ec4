"""A process for each contender, so that memory and threads are its own; the parent has one of them work at a time."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import torch
from safetensors.torch import save_file

from benchmarks.machine import memory_mib, reset_peak_memory
from benchmarks.speed.contenders import CONTENDERS
from benchmarks.speed.setting import Setting

__all__ = ["Step", "Worker"]


@final
@dataclass(frozen=True)
class Step:
    """What a step took: wall and CPU seconds (all threads); the highest resident memory during it, or the highest
    allocated on the accelerator, in MiB, as such and over the state in which the models are loaded and the batches
    made."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    added_mib: float
    loss: float


@final
class Worker:
    """The parent's end of a contender's process. Exceptions of the process are raised here."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("spawn")  # a child must not start with the parent's memory
        self.name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()  # which ends the process, if it is not in the middle of something
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()

    def prepare(self, setting: Setting) -> float:
        """Load the models and make the batches, in place of earlier ones; returns the resident memory in MiB."""
        ready: float = self._ask("prepare", setting)
        return ready

    def step(self, batch: int, gradients: Path | None = None) -> Step:
        """Take a step; write its gradients where a file is named."""
        step: Step = self._ask("step", batch, gradients)
        return step

    def release(self) -> None:
        """Forget models and batches."""
        self._ask("release")

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            self._connection.send((method, arguments))
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the process of {self.name!r} ended during {method}, perhaps for memory") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(connection: Connection, name: str) -> None:
    """The life of a contender's process."""
    bench = _Bench(name)
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(getattr(bench, method)(*arguments))
        except Exception as error:
            connection.send(error)


@final
class _Bench:
    """The contender in its own process."""

    def __init__(self, name: str) -> None:
        self._entry = CONTENDERS[name]
        self.release()

    def release(self) -> None:
        self._contender: Any = None
        self._on_cuda = False
        _give_memory_back()

    def prepare(self, setting: Setting) -> float:
        self.release()
        self._on_cuda = setting.device == "cuda"
        self._contender = self._entry.build(setting)
        _give_memory_back()
        self._ready = torch.cuda.memory_allocated() / 2**20 if self._on_cuda else memory_mib("VmRSS")
        return self._ready

    def step(self, batch: int, gradients: Path | None) -> Step:
        contender = self._contender
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        else:
            reset_peak_memory()
        seconds, cpu_seconds = time.perf_counter(), time.process_time()
        loss = contender.step(batch)
        if self._on_cuda:
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - seconds, time.process_time() - cpu_seconds
        peak = torch.cuda.max_memory_allocated() / 2**20 if self._on_cuda else memory_mib("VmHWM")
        if gradients is not None:
            by_name = {
                name: parameter.grad for name, parameter in contender.parameters.items() if parameter.grad is not None
            }
            save_file(by_name, gradients)
        contender.clear()
        return Step(seconds, cpu_seconds, peak, peak - self._ready, loss)


def _give_memory_back() -> None:
    """Collect garbage, and return what the allocators hold to the system, so that it is not taken for loaded."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if os.name == "posix":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
