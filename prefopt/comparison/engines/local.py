"""The engine of one machine: this process, or processes that each have an accelerator or a share of the cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Literal, final

from pydantic import Field

from prefopt.comparison.engines.base import Engine, EngineError, on_cpu
from prefopt.comparison.processes import ProcessesExecutor
from prefopt.comparison.run import Run

_VISIBLE = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "xpu": "ZE_AFFINITY_MASK",
    "npu": "ASCEND_RT_VISIBLE_DEVICES",
    "mlu": "MLU_VISIBLE_DEVICES",
    "musa": "MUSA_VISIBLE_DEVICES",
    "hpu": "HABANA_VISIBLE_MODULES",
}
"""Kind of accelerator -> the variable that says which of them a process sees."""


@final
class LocalEngine(Engine):
    """Processes of this machine, a run each at a time.

    processes  1: this process. null: one for each accelerator, else 1
    """

    name: Literal["local"] = "local"
    processes: int | None = Field(default=None, ge=1)

    def start(self, runs: Sequence[Run], folder: Path) -> Executor:
        """See `Engine`."""
        import torch

        devices = device_environments(runs)
        processes = self.processes or max(1, len(devices))
        if processes == 1:
            return InProcess()
        threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}
        pinned = [devices[number % len(devices)] if devices else {} for number in range(processes)]
        return ProcessesExecutor([device | threads for device in pinned], spoils=_failed)


@final
class InProcess(Executor):
    """Carries out what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Gives a future that is done. An interrupt is raised here."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # is raised by the future
            future.set_exception(error)
        return future


def device_environments(runs: Iterable[Run]) -> list[dict[str, str]]:
    """For each accelerator of this machine what shows a process this one alone; none where all runs use the CPU."""
    import torch

    count = 0 if on_cpu(runs) else torch.accelerator.device_count()
    kind = torch.accelerator.current_accelerator() if count > 1 else None
    if kind is None:
        return [{}] * count
    if (variable := _VISIBLE.get(kind.type)) is None:
        raise EngineError(f"engine local: it cannot show a process one {kind.type} of {count}; --processes 1 takes one")
    visible = os.environ.get(variable) or ",".join(map(str, range(count)))
    return [{variable: name.strip()} for name in visible.split(",")[:count]]


def _failed(outcome: Any) -> bool:
    """Whether a run failed, after which the device may be in a bad state."""
    return isinstance(outcome, OSError) or outcome["error"] is not None
